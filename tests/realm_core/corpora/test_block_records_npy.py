from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy

from realm_core.corpora.block_records_npy import (
    BYTES_PER_BATCH,
    RECORDS_PER_BATCH,
    num_block_records,
    read_block_records,
)
from realm_core.errors import SourceError

RECORDS = [b"Aardvarks eat ants.", b"", "Élan, 東京".encode(), b"x" * 300, b"y" * 70_000, b"b", b"\x00\n\xff", b"end"]


def objects(records):
    array = np.empty(len(records), dtype=object)
    array[:] = records
    return array


def save(path, records):
    np.save(path, objects(records), allow_pickle=True)
    return path


def save_with_protocol(path, records, protocol):
    array = objects(records)
    with path.open("wb") as file:
        npy.write_array_header_1_0(file, npy.header_data_from_array_1_0(array))
        pickle.dump(array, file, protocol=protocol)
    return path


def read(path):
    return [record for batch in read_block_records(path) for record in batch]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "block_records.npy"


def test_what_numpy_saves_is_read_back(file):
    save(file, RECORDS)
    assert num_block_records(file) == len(RECORDS)
    assert read(file) == RECORDS
    assert read(str(file)) == RECORDS


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("num_records", [0, 1, 2, 999, 1000, 1001, 2001])
def test_every_protocol_and_number_of_records_is_read_back(file, protocol, num_records):
    records = [b"record %d" % number for number in range(num_records)]
    save_with_protocol(file, records, protocol)
    assert num_block_records(file) == num_records
    assert read(file) == records


def test_the_name_that_numpy_1_gives_its_function_is_admitted(file):
    save_with_protocol(file, RECORDS, 3)
    file.write_bytes(file.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read(file) == RECORDS


def test_one_object_many_times_is_as_many_records(file):
    once, long = b"the same object", b"z" * 80_000
    records = [once, b"other", once, long, once, b"b", long, once] * 300
    assert save(file, records).stat().st_size < 400_000
    assert read(file) == records


def test_batches_are_bounded_in_records_and_bytes(file):
    save(file, [b"%d" % number for number in range(RECORDS_PER_BATCH + 10)])
    assert [len(batch) for batch in read_block_records(file)] == [RECORDS_PER_BATCH, 10]
    large = os.urandom(BYTES_PER_BATCH // 2 + 1)
    save(file, [large + b"1", large + b"2", large + b"3"])
    assert [len(batch) for batch in read_block_records(file)] == [2, 1]


@settings(max_examples=60, deadline=None)
@given(records=st.lists(st.binary(max_size=400), max_size=40), repeats=st.integers(1, 3), protocol=st.integers(3, 5))
def test_any_records_come_back(tmp_path_factory, records, repeats, protocol):
    path = tmp_path_factory.mktemp("any") / "records.npy"
    assert read(save_with_protocol(path, records * repeats, protocol)) == records * repeats


@pytest.mark.parametrize("records", [RECORDS[:4], [b"a"] * 5000, []])
def test_fixed_width_byte_strings_are_read_without_a_pickle(file, records):
    np.save(file, np.array(records, dtype="S300"), allow_pickle=False)
    assert num_block_records(file) == len(records)
    assert read(file) == records


@pytest.mark.parametrize("is_pickled", [True, False])
def test_a_truncated_file_is_named_wherever_it_ends(file, is_pickled):
    np.save(file, objects(RECORDS) if is_pickled else np.array(RECORDS, dtype="S300"), allow_pickle=True)
    whole = file.read_bytes()
    for size in {*range(len(whole) - 700, len(whole), 7), *range(130, 700, 11)}:
        file.write_bytes(whole[:size])
        with pytest.raises(SourceError, match="truncated") as caught:
            read(file)
        assert str(file) in str(caught.value)
    for size in (0, 5, 9, 50):
        file.write_bytes(whole[:size])
        with pytest.raises(SourceError, match="no header of NumPy's format"):
            num_block_records(file)


@pytest.mark.parametrize("is_pickled", [True, False])
def test_bytes_after_the_array_are_refused(file, is_pickled):
    np.save(file, objects(RECORDS) if is_pickled else np.array(RECORDS, dtype="S300"), allow_pickle=True)
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(SourceError, match="4 bytes after"):
        read(file)


@pytest.mark.parametrize(("named", "found"), [(9, "another structure|8 records"), (7, "more than the 7 records")])
def test_another_number_of_records_than_the_header_names_is_refused(file, named, found):
    save(file, RECORDS)
    file.write_bytes(file.read_bytes().replace(b"(8,)", b"(%d,)" % named))
    with pytest.raises(SourceError, match=found):
        read(file)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((2, 2)), "the type float64"),
        (np.array(["text"]), "the type <U4"),
        (np.array([[b"a"], [b"b"]], dtype=object), r"the shape \(2, 1\)"),
        (np.array(b"a", dtype=object), r"the shape \(\)"),
        (np.array([(1, b"a")], dtype=[("id", int), ("text", "S1")]), "the type"),
        (np.asfortranarray(np.array([[b"a", b"c"], [b"b", b"d"]])), "the shape"),
    ],
)
def test_arrays_of_another_kind_are_refused_by_their_header(file, array, found):
    np.save(file, array, allow_pickle=True)
    for look in (num_block_records, read):
        with pytest.raises(SourceError, match=found) as caught:
            look(file)
        assert "one-dimensional array of byte strings" in str(caught.value)


def test_fortran_order_and_other_formats_are_refused(file):
    save(file, RECORDS)
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"'fortran_order': False", b"'fortran_order': True "))
    with pytest.raises(SourceError, match="Fortran order"):
        num_block_records(file)
    file.write_bytes(whole[:6] + b"\x07" + whole[7:])
    with pytest.raises(SourceError, match="version"):
        num_block_records(file)
    file.write_bytes(pickle.dumps(objects(RECORDS)))
    with pytest.raises(SourceError, match="no header of NumPy's format"):
        read(file)


def test_a_hostile_file_runs_no_code(file, tmp_path):
    class Harmful:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'was-run'}",))

    save(file, [b"one", Harmful()])
    with pytest.raises(SourceError, match=r"block_records\.npy, byte \d+: .*posix\.system"):
        read(file)
    assert not (tmp_path / "was-run").exists()
    np.load(file, allow_pickle=True)
    assert (tmp_path / "was-run").exists()


def test_a_file_that_is_not_there_is_named(file):
    with pytest.raises(SourceError, match="No such file"):
        num_block_records(file)
