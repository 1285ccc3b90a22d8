"""Embeddings of a part: one Parquet file, in the part's row order.

Columns: `uid` (fixed 20 bytes) and `embedding` (fixed-size list of D float32 or float16), neither with nulls. The
file's metadata names what it was made from (`realm.format`, `realm.part`, `realm.encoder`, `realm.precision`), and the
file's name follows from that; a seal covers all bytes. pandas, DuckDB, Ray Data and Hugging Face datasets read both
kinds; DuckDB shows float16 as FLOAT, and lists without their length.

Shapes: R rows of a part, D projection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from realm_core.engines.precision import stored_as
from realm_core.errors import ArtifactCorruptError, ArtifactMissingError, BlockError
from realm_core.storage.digests import digest_of, fixed_binary_to_numpy
from realm_core.storage.parquet import read_parquet_metadata
from realm_core.storage.sealed_parquet import SealedTable, parse_sealed_table, write_sealed_table

if TYPE_CHECKING:
    from realm_core.storage.block_store import PartEntry
    from realm_core.storage.files import Store

FORMAT_VERSION = "1"
_UID_TYPE = pa.binary(20)
_MAX_FLOAT16 = float(np.finfo(np.float16).max)


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingSpec:
    """What embeddings are made with."""

    encoder_digest: str
    precision: str
    """Name of the arithmetic and the stored type, see `realm_core.engines.precision`."""

    def digest(self, part_digest: str) -> str:
        """Names the embeddings of that part."""
        return embedding_digest(part_digest, self.encoder_digest, self.precision)

    def metadata(self, part_digest: str) -> dict[str, str]:
        """What the file of that part says of itself."""
        return {
            "realm.format": FORMAT_VERSION,
            "realm.part": part_digest,
            "realm.encoder": self.encoder_digest,
            "realm.precision": self.precision,
        }


def embedding_digest(part_digest: str, encoder_digest: str, precision_name: str) -> str:
    """Names the embeddings of a part: a pure function of the part, the encoder and the arithmetic."""
    return digest_of("embeddings", part_digest, encoder_digest, precision_name)


def embedding_path(digest: str) -> str:
    """Where the embeddings of that digest are."""
    return f"embeddings/{digest}.parquet"


def write_embeddings(
    store: Store, spec: EmbeddingSpec, part: PartEntry, uids: np.ndarray, embeddings_RD: np.ndarray
) -> None:
    """Writes a part's embeddings, atomically, as the type that the spec's precision names.

    Args:
        store: where to.
        spec: what they were made with.
        part: what they were made of.
        uids: [R] (V20), in the part's row order.
        embeddings_RD: of any float type.

    Raises:
        BlockError: a value that float16 cannot hold; has the rows.
        StoreError: the store cannot be written.
    """
    if not len(uids) == len(embeddings_RD) == part.num_rows:
        raise ValueError(f"{len(uids)} uids and {len(embeddings_RD)} embeddings for a part of {part.num_rows} rows")
    values_RD = _as_stored(embeddings_RD, spec, part)
    path = embedding_path(spec.digest(part.digest))
    write_sealed_table(store, path, _to_table(uids, values_RD), spec.metadata(part.digest))


def read_embeddings(store: Store, digest: str, part: PartEntry) -> tuple[np.ndarray, np.ndarray]:
    """uids [R] (V20) and embeddings [R, D] of a part; float32, whatever they are stored as.

    Raises:
        ArtifactMissingError: not there.
        ArtifactCorruptError: damaged; of another part, encoder or arithmetic; not as many rows as the part.
        StoreError: the store cannot be read.
    """
    path = embedding_path(digest)
    where = f"{store.url}/{path}"
    return store.read_checked(path, lambda local: parse_embeddings(local.read_bytes(), digest, part, where=where))


def parse_embeddings(data: bytes, digest: str, part: PartEntry, *, where: str) -> tuple[np.ndarray, np.ndarray]:
    """What the bytes of an embedding file hold, see `read_embeddings`; `where` names the file in errors.

    Raises:
        ArtifactCorruptError: damaged; of another part, encoder or arithmetic; not as many rows as the part.
    """
    sealed = parse_sealed_table(data, where=where)
    _require_identity(sealed, digest, part, where)
    return _to_arrays(sealed.table)


def embedding_origin(store: Store, digest: str) -> tuple[str, str] | None:
    """Digests of the part and the encoder that an embedding file says it is of; None for one that is damaged.

    Reads the end of the file alone, and does not check the seal.

    Raises:
        StoreError: the store cannot be read.
    """
    found = read_parquet_metadata(store, embedding_path(digest))
    if found is None or not {"realm.part", "realm.encoder"} <= found.keys():
        return None
    return found["realm.part"], found["realm.encoder"]


def embeddings_are_whole(store: Store, digest: str, part: PartEntry) -> bool:
    """True when the part's embeddings are there and undamaged; False means that they are to be made."""
    try:
        read_embeddings(store, digest, part)
    except (ArtifactMissingError, ArtifactCorruptError):
        return False
    return True


def _as_stored(embeddings_RD: np.ndarray, spec: EmbeddingSpec, part: PartEntry) -> np.ndarray:
    if stored_as(spec.precision) == "float32":
        return np.ascontiguousarray(embeddings_RD, dtype=np.float32)
    largest_R = np.abs(embeddings_RD).max(axis=1, initial=0)
    rows = np.flatnonzero(~(largest_R <= _MAX_FLOAT16))  # negated, so that NaN is among them
    if len(rows):
        raise BlockError(
            where=f"embeddings of part {part.digest[:12]}",
            found=f"{largest_R[rows[0]]:g} in row {rows[0]}, and {len(rows)} rows like it in all",
            expected=f"values from {-_MAX_FLOAT16:g} to {_MAX_FLOAT16:g}, which float16 can hold",
            action="Store them as float32, or check the encoder: trained embeddings are small.",
            rows=tuple(int(row) for row in rows),
        )
    return np.ascontiguousarray(embeddings_RD, dtype=np.float16)


def _to_table(uids: np.ndarray, values_RD: np.ndarray) -> pa.Table:
    num_rows, dimension = values_RD.shape
    values = pa.array(values_RD.reshape(-1))
    list_type = pa.list_(pa.field("element", values.type, nullable=False), dimension)
    uid_column = pa.FixedSizeBinaryArray.from_buffers(_UID_TYPE, num_rows, [None, pa.py_buffer(uids.tobytes())])
    embedding_column = pa.FixedSizeListArray.from_arrays(values, type=list_type)
    fields = [pa.field("uid", _UID_TYPE, nullable=False), pa.field("embedding", list_type, nullable=False)]
    return pa.table([uid_column, embedding_column], schema=pa.schema(fields))


def _to_arrays(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    column = table["embedding"].combine_chunks()
    values_RD = column.flatten().to_numpy().reshape(-1, column.type.list_size)
    return fixed_binary_to_numpy(table["uid"]), values_RD.astype(np.float32, copy=False)


def _require_identity(sealed: SealedTable, digest: str, part: PartEntry, where: str) -> None:
    if sealed.table.num_rows != part.num_rows:
        raise _not_these(where, f"{sealed.table.num_rows} rows", f"{part.num_rows} rows, as its part has")
    found = sealed.metadata
    if found.get("realm.format") != FORMAT_VERSION:
        raise _not_these(where, f"format {found.get('realm.format')}", f"format {FORMAT_VERSION}")
    if found["realm.part"] != part.digest:
        raise _not_these(where, f"embeddings of part {found['realm.part']}", f"those of part {part.digest}")
    if embedding_digest(part.digest, found["realm.encoder"], found["realm.precision"]) != digest:
        raise _not_these(
            where,
            f"embeddings of encoder {found['realm.encoder']} in {found['realm.precision']}",
            "those of the encoder and arithmetic that its name stands for",
        )


def _not_these(where: str, found: str, expected: str) -> ArtifactCorruptError:
    return ArtifactCorruptError(
        where=where,
        found=found,
        expected=expected,
        action="Remove the file and run `realm embed` again; it makes only what is missing.",
    )
