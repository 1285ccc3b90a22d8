from __future__ import annotations

import numpy as np
import pytest

from benchmarks.published_records import records, write_block_records
from realm_core.corpora.block_records_npy import num_block_records, read_block_records


@pytest.mark.parametrize("num_records", [1, 2, 999, 1000, 1001, 2500])
def test_the_stream_is_what_numpy_reads_as_an_array_of_byte_strings(tmp_path, num_records):
    file = tmp_path / "block_records.npy"
    write_block_records(file, num_records, mean_bytes=300)
    expected = list(records(num_records, mean_bytes=300))
    array = np.load(file, allow_pickle=True)
    assert array.shape == (num_records,)
    assert array.tolist() == expected
    assert num_block_records(file) == num_records
    assert [record for batch in read_block_records(file) for record in batch] == expected


def test_records_differ_and_have_the_mean_length(tmp_path):
    made = list(records(3000, mean_bytes=200))
    assert len(set(made)) == len(made)
    assert 190 < np.mean([len(record) for record in made]) < 220
