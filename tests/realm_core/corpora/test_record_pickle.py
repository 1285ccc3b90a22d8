"""Pickles that must be refused, each by the name of what it asks for, and that none of them runs."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest

from realm_core.corpora.record_pickle import MAX_RECORD_BYTES, RecordWalker
from realm_core.errors import SourceError

OBJECT_STATE = pickle.dumps(np.array([b"one", b"two"], dtype=object), protocol=4)
UNTIL_THE_LIST = OBJECT_STATE[: OBJECT_STATE.index(b"]\x94(") + 3]
"""An array's pickle up to the mark before its first element."""


def walk(tmp_path, content, num_records=2):
    file = tmp_path / "records.pickle"
    file.write_bytes(content)
    with file.open("rb") as opened:
        batches = RecordWalker(opened, num_records=num_records, where=str(file)).batches(max_records=100, max_bytes=100)
        return [record for batch in batches for record in batch]


def refused(tmp_path, content, num_records=2):
    with pytest.raises(SourceError) as caught:
        walk(tmp_path, content, num_records)
    assert "records.pickle" in caught.value.where
    assert "\n" not in str(caught.value)
    return caught.value


def objects(*elements):
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self._call = (function, arguments)

    def __reduce__(self):
        return self._call


@pytest.fixture
def marker(tmp_path):
    """A file that must never appear."""
    path = tmp_path / "code-was-run"
    yield path
    assert not path.exists()


def command(marker):
    return f"touch {marker}".encode()


def stack_global(module, name):
    return b"\x8c" + bytes([len(module)]) + module + b"\x8c" + bytes([len(name)]) + name + b"\x93"


def short_bytes(value):
    return b"C" + bytes([len(value)]) + value


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("place", ["instead of the array", "as an element", "after an element"])
def test_a_call_of_a_shell_is_refused_by_name(tmp_path, marker, protocol, place):
    harmful = Calls(os.system, f"touch {marker}")
    value = {
        "instead of the array": harmful,
        "as an element": objects(harmful, b"two"),
        "after an element": objects(b"one", harmful),
    }[place]
    error = refused(tmp_path, pickle.dumps(value, protocol=protocol))
    assert "it asks for the function or class posix.system" in error.found
    assert "No code was run" in error.action
    offset = int(error.where.rsplit("byte ", 1)[1])
    assert pickle.dumps(value, protocol=protocol)[offset] in b"c\x93"


def test_the_pickles_of_these_tests_would_run_elsewhere(tmp_path):
    marker = tmp_path / "ran"
    pickle.loads(pickle.dumps(Calls(os.system, f"touch {marker}"), protocol=4))
    assert marker.exists()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"cposix\nsystem\n%s\x85R.", "posix.system"),
        (stack_global(b"builtins", b"exec") + b"%s\x85R.", "builtins.exec"),
        (b"(%siposix\nsystem\n.", "posix.system"),
        (b"(%sinumpy\nndarray\n.", "numpy.ndarray"),
        (b"(cposix\nsystem\n%so.", "posix.system"),
        (b"csubprocess\nPopen\n%s\x85\x81.", "subprocess.Popen"),
        (b"c__main__\nAnything\n)\x81%sb.", "__main__.Anything"),
        (b"cnumpy\nload\n%s\x85R.", "numpy.load"),
        (b"cnumpy.core.multiarray\nscalar\n%s\x85R.", "numpy.core.multiarray.scalar"),
        (UNTIL_THE_LIST + b"cposix\nsystem\n%s\x85Re.", "posix.system"),
        (UNTIL_THE_LIST + b"(%siposix\nsystem\ne.", "posix.system"),
        (UNTIL_THE_LIST + stack_global(b"posix", b"system") + b"%s\x85Re.", "posix.system"),
    ],
)
def test_every_way_of_naming_a_function_is_refused_by_that_name(tmp_path, marker, content, name):
    content = b"\x80\x04" * (not content.startswith(b"\x80")) + content.replace(b"%s", short_bytes(command(marker)))
    assert name in refused(tmp_path, content).found


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"\x82\x07.", "extension code 7"),
        (b"\x83\x07\x00.", "extension code 7"),
        (b"\x84\x07\x00\x00\x00.", "extension code 7"),
        (b"Pwhoever\n.", "persistent id, 'whoever'"),
        (b"NQ.", "persistent id"),
        (b"cnumpy\nndarray\n)\x81.", "instruction NEWOBJ"),
        (b"cnumpy\nndarray\n)}\x92.", "instruction EMPTY_DICT"),
        (b"(cnumpy\nndarray\no.", "instruction OBJ"),
        (b"cnumpy\nndarray\n)R.", "another structure"),
        (b"cnumpy\nndarray\nNb.", "another structure"),
        (b"\x8f.", "instruction EMPTY_SET"),
        (b"\x97.", "instruction NEXT_BUFFER"),
        (b"N0.", "instruction POP"),
        (b"R.", "without its values"),
        (b"(R.", "without its values"),
        (b"t.", "without its mark"),
        (b"\x94.", "out of their order"),
        (b"Nr\x05\x00\x00\x00.", "out of their order"),
        (b"h\x05.", "value number 5 of 0"),
        (b"N.", "another structure"),
        (b".", "another structure"),
        (b"NN.", "another structure"),
        (b"]].", "second list"),
        (b"\x80\x09.", "pickle protocol 9"),
        (b"N\x93.", "without its values"),
        (b"NN\x93.", "None.None"),
        (b"(" * 100 + b".", "values that are no records"),
        (b"N\x85" * 2000 + b".", "values that are no records"),
        (b"N" + b"\x94" * 2000 + b".", "values that are no records"),
        (b"B" + struct.pack("<I", 5000) + bytes(5000) + b".", "values that are no records, such as a value"),
        (b"X" + struct.pack("<I", 5000) + bytes(5000) + b".", "values that are no records, such as a str"),
        (b"\xff.", "no pickle instruction"),
        (b"c\xff\xff\nx\n.", "no pickle instruction"),
        (b"c" + b"x" * 5000 + b"\n.", "no pickle instruction"),
        (b"\x8e" + struct.pack("<Q", MAX_RECORD_BYTES + 1) + b".", "no pickle instruction"),
        (b"\x8e" + struct.pack("<Q", 1 << 63) + b".", "no pickle instruction"),
        (b"\x8b" + struct.pack("<i", 1 << 30) + b".", "no pickle instruction"),
    ],
)
def test_what_no_array_of_byte_strings_needs_is_refused(tmp_path, content, found):
    assert found in refused(tmp_path, content).found


@pytest.mark.parametrize(
    "value",
    [
        [b"one", b"two"],
        (b"one", b"two"),
        {"arr": b"one"},
        np.array([1, 2]),
        np.array([b"one", b"two"]),
        np.array([[b"one", b"two"]], dtype=object),
        np.float64(1.5),
        b"one",
    ],
    ids=repr,
)
def test_other_objects_are_refused(tmp_path, value):
    refused(tmp_path, pickle.dumps(value, protocol=4))


@pytest.mark.parametrize(
    ("elements", "found"),
    [
        ([b"one", "two"], "a str instead of a byte string as record 1"),
        (["one", b"two"], "a str instead of a byte string as record 0"),
        ([b"one", 2], "a int instead of a byte string as record 1"),
        ([b"one", None], "a NoneType instead of a byte string as record 1"),
        ([b"one", (b"two",)], "a tuple instead of a byte string as record"),
        ([b"one", [b"two"]], "a second list"),
        ([b"one", bytearray(b"two")], "builtins.bytearray"),
        ([b"one", {}], "instruction EMPTY_DICT"),
        ([b"one", 1.5], "instruction BINFLOAT"),
        ([*["words"] * 5, *"abcdefgh" * 20], "a str instead of a byte string as record 0"),
    ],
)
def test_elements_that_are_no_byte_strings_are_named(tmp_path, elements, found):
    assert found in refused(tmp_path, pickle.dumps(objects(*elements), protocol=4), len(elements)).found


def test_pickle_protocol_2_is_refused_with_advice(tmp_path):
    error = refused(tmp_path, pickle.dumps(objects(b"one", b"two"), protocol=2))
    assert "_codecs.encode" in error.found
    assert "save it again" in error.action


def test_an_admitted_name_in_another_place_is_refused(tmp_path):
    good = pickle.dumps(objects(b"one", b"two"), protocol=3)
    assert walk(tmp_path, good) == [b"one", b"two"]
    assert "another structure" in refused(tmp_path, good.replace(b"cnumpy\ndtype\n", b"cnumpy\nndarray\n")).found


def test_numbers_of_remembered_values_follow_an_optimized_pickle(tmp_path):
    repeated = b"twice"
    content = pickletools.optimize(pickle.dumps(objects(repeated, b"one", repeated), protocol=4))
    assert walk(tmp_path, content, 3) == [b"twice", b"one", b"twice"]


def test_the_python_pickler_is_read_like_the_one_in_c(tmp_path):
    stream = io.BytesIO()
    pickle._Pickler(stream, protocol=4).dump(objects(b"one", b"", b"three"))
    assert walk(tmp_path, stream.getvalue(), 3) == [b"one", b"", b"three"]
