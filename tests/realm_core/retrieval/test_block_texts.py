from __future__ import annotations

import numpy as np
import pytest

from realm_core.errors import ArtifactCorruptError, QueryError, SourceError
from realm_core.retrieval.block_texts import BlockTextColumn, StoredBlockTexts
from realm_core.storage.block_store import BlockRecords

TEXTS = ["first", "zwölf Äpfel", "", "x" * 70_000]


def test_byte_strings_strings_and_arrays_are_the_same_texts(tmp_path):
    as_bytes = [text.encode() for text in TEXTS]
    np.save(tmp_path / "block_records.npy", np.array(as_bytes, dtype=object), allow_pickle=True)
    for column in (
        BlockTextColumn.of(TEXTS),
        BlockTextColumn.of(as_bytes),
        BlockTextColumn.of(np.array(as_bytes, dtype=object)),
        BlockTextColumn.read_npy(tmp_path / "block_records.npy"),
    ):
        assert len(column) == 4
        assert column.texts([3, 1, 1, 2]) == [TEXTS[3], TEXTS[1], TEXTS[1], ""]


def test_they_are_indexed_as_an_array_of_byte_strings():
    column, array = BlockTextColumn.of(TEXTS), np.array([text.encode() for text in TEXTS], dtype=object)
    assert column[1] == column[-3] == array[1]
    assert column[:2].tolist() == list(column)[:2] == array[:2].tolist()
    assert np.take(column, [0, 2, 2]).tolist() == array[[0, 2, 2]].tolist() == column[[0, 2, 2]].tolist()
    with pytest.raises(IndexError):
        column[4]


def test_parquet_gives_back_what_was_written(tmp_path):
    BlockTextColumn.of(TEXTS).write_parquet(tmp_path / "texts.parquet")
    assert BlockTextColumn.read_parquet(tmp_path / "texts.parquet").texts(range(4)) == TEXTS


def test_a_block_that_is_not_there_is_named():
    with pytest.raises(QueryError, match="block id 4; expected 0 to 3"):
        BlockTextColumn.of(TEXTS).texts([0, 4])
    with pytest.raises(QueryError, match="block id -1"):
        BlockTextColumn.of(TEXTS).texts([-1])


def test_damaged_files_are_named(tmp_path):
    file = tmp_path / "texts.parquet"
    BlockTextColumn.of(["word " * 50] * 100).write_parquet(file)
    data = bytearray(file.read_bytes())
    data[20] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactCorruptError, match=r"texts\.parquet"):
        BlockTextColumn.read_parquet(file)
    (tmp_path / "block_records.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(SourceError, match=r"block_records\.npy"):
        BlockTextColumn.read_npy(tmp_path / "block_records.npy")


def test_a_store_gives_the_bodies_of_its_blocks(synthetic_store):
    texts = StoredBlockTexts.open(synthetic_store.store.url)
    records = BlockRecords(synthetic_store.store, synthetic_store.corpus)
    assert len(texts) == len(records)
    assert texts.texts([5, 0]) == [row["body"] for row in records.take([5, 0], ["body"])]
