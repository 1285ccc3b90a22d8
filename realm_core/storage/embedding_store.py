"""Embeddings of a part: one Parquet file, in the part's row order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from realm_core.errors import ArtifactCorruptError, ArtifactMissingError
from realm_core.storage.digests import digest_of, fixed_binary_to_numpy
from realm_core.storage.parquet import read_table, write_table

if TYPE_CHECKING:
    from realm_core.storage.block_store import PartEntry
    from realm_core.storage.files import Store


def embedding_digest(part_digest: str, encoder_digest: str, precision: str) -> str:
    """Names the embeddings of a part: a pure function of the part, the encoder and the arithmetic."""
    return digest_of("embeddings", part_digest, encoder_digest, precision)


def embedding_path(digest: str) -> str:
    """Where the embeddings of that digest are."""
    return f"embeddings/{digest}.parquet"


def write_embeddings(store: Store, digest: str, uids: np.ndarray, embeddings_RD: np.ndarray) -> None:
    """Writes `uid` (20 bytes) and `embedding` (fixed-size list of D float32) for R rows, atomically."""
    num_rows, dimension = embeddings_RD.shape
    uid_column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(20), num_rows, [None, pa.py_buffer(uids.tobytes())])
    values = pa.array(np.ascontiguousarray(embeddings_RD, dtype=np.float32).reshape(-1))
    table = pa.table({"uid": uid_column, "embedding": pa.FixedSizeListArray.from_arrays(values, dimension)})
    write_table(store, embedding_path(digest), table, compression="none")


def read_embeddings(store: Store, digest: str, part: PartEntry) -> tuple[np.ndarray, np.ndarray]:
    """uids [R] (V20) and embeddings [R, D] (float32) of a part.

    Raises:
        ArtifactMissingError, ArtifactCorruptError: not there; damaged, or not as many rows as the part.
    """
    table = read_table(store, embedding_path(digest))
    if table.num_rows != part.num_rows:
        raise ArtifactCorruptError(
            where=f"{store.url}/{embedding_path(digest)}",
            found=f"{table.num_rows} rows",
            expected=f"{part.num_rows} rows, as its part has",
            action="Remove the file and run `realm embed` again; it makes only what is missing.",
        )
    column = table["embedding"].combine_chunks()
    dimension = column.type.list_size
    return fixed_binary_to_numpy(table["uid"]), column.flatten().to_numpy().reshape(-1, dimension)


def embeddings_are_whole(store: Store, digest: str, part: PartEntry) -> bool:
    """True when the part's embeddings are there and undamaged; False means that they are to be made."""
    try:
        read_embeddings(store, digest, part)
    except (ArtifactMissingError, ArtifactCorruptError):
        return False
    return True
