"""The texts of block records, wherever they are: in memory, in a file of their own, or in a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from realm_core.corpora.block_records_npy import read_block_records
from realm_core.errors import ArtifactCorruptError, QueryError
from realm_core.storage.block_store import BlockRecords, load_corpus
from realm_core.storage.files import Store

PARQUET_NAME = "block_records.parquet"
NPY_NAME = "block_records.npy"
_COLUMN = "text"
_ROWS_PER_GROUP = 65_536


class BlockTexts(Protocol):
    """Texts by block id."""

    def __len__(self) -> int: ...

    def texts(self, block_ids: Sequence[int]) -> list[str]:
        """The text of each block. Raises `QueryError` for an id that is not there."""
        ...


class BlockTextColumn:
    """Texts in one Arrow column: 8 bytes a record more than their UTF-8."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - what NumPy takes and gives
        """Records as byte strings, as the array of 4.40.2 gives them: one, or an array of objects."""
        if isinstance(index, int | np.integer):
            return self.column[int(index)].as_py()
        return self.__array__()[index] if not isinstance(index, slice) else _objects(self.column[index].to_pylist())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: ANN401 - NumPy's protocol
        """All records as an array of byte strings, as 4.40.2 holds them."""
        return _objects(self.column.to_pylist())

    @classmethod
    def of(cls, records: Sequence[bytes | str] | np.ndarray) -> BlockTextColumn:
        """Of byte strings (UTF-8) or strings in memory."""
        values = [record.encode() if isinstance(record, str) else bytes(record) for record in records]
        return cls(pa.chunked_array([pa.array(values, pa.large_binary())]))

    @classmethod
    def read_npy(cls, file: Path) -> BlockTextColumn:
        """Of a published `block_records.npy`; nothing is unpickled. Raises `SourceError` where it is damaged."""
        chunks = [pa.array(records, pa.binary()) for records in read_block_records(file)]
        return cls(pa.chunked_array(chunks, pa.binary()))

    @classmethod
    def read_parquet(cls, file: Path) -> BlockTextColumn:
        """Of a file that `write_parquet` wrote; raises `ArtifactCorruptError` where it is damaged."""
        try:
            table = pq.read_table(file, page_checksum_verification=True, columns=[_COLUMN])
        except (pa.ArrowException, OSError, KeyError) as error:
            raise ArtifactCorruptError(
                where=str(file),
                found=f"a file that cannot be read ({str(error).splitlines()[0]})",
                expected=f"Parquet with a column {_COLUMN!r}",
                action="Copy it again, or save the retriever again.",
            ) from error
        return cls(table[_COLUMN])

    def write_parquet(self, file: Path) -> None:
        """One column `text`, one row per block in the order of block ids, with page checksums."""
        pq.write_table(
            pa.table({_COLUMN: self.column}),
            file,
            compression="zstd",
            row_group_size=_ROWS_PER_GROUP,
            write_page_checksum=True,
        )

    def texts(self, block_ids: Sequence[int]) -> list[str]:
        """See `BlockTexts.texts`."""
        for block_id in block_ids:
            if not 0 <= block_id < len(self.column):
                raise QueryError(
                    where="block records",
                    found=f"block id {block_id}",
                    expected=f"0 to {len(self.column) - 1}",
                    action="Use the block records that the block embeddings were made from.",
                )
        return [self.column[block_id].as_buffer().to_pybytes().decode() for block_id in block_ids]


def _objects(records: list[bytes]) -> np.ndarray:
    array = np.empty(len(records), dtype=object)
    array[:] = records
    return array


class StoredBlockTexts:
    """Bodies of a store's block records: what the reader reads, as in ORQA; titles are in the embeddings only."""

    def __init__(self, records: BlockRecords) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    @classmethod
    def open(cls, store_url: str, corpus_digest: str | None = None) -> StoredBlockTexts:
        """Of a store's corpus, by default the current one. Raises `StoreError` where nothing was ingested."""
        store = Store(store_url)
        return cls(BlockRecords(store, load_corpus(store, corpus_digest)))

    def texts(self, block_ids: Sequence[int]) -> list[str]:
        """See `BlockTexts.texts`."""
        return [row["body"] for row in self._records.take(block_ids, ("body",))]
