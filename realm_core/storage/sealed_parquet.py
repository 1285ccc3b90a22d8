"""Parquet files that carry the digest of all their own bytes, so that no damage to any of them passes unseen.

Page checksums cover the pages alone: a byte that flips in the footer can change a name, a type or a digest, and the
file still reads. The seal is an entry of the file's metadata, `realm.seal` = `sha256:<64 hex digits>`: the SHA-256 of
the file with zeros in the place of these digits. To other readers it is metadata like any other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from realm_core.errors import ArtifactCorruptError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from realm_core.storage.files import Store

SEAL_KEY = "realm.seal"
_PREFIX = b"sha256:"
_BLANK = b"0" * 64
_MAX_FOOTER_BYTES = 64 * 1024
"""More than the footer of a table of a few columns and one row group; the seal is looked for in it."""


@dataclass(frozen=True, slots=True)
class SealedTable:
    """What a sealed file holds."""

    table: pa.Table
    metadata: dict[str, str]
    """Without the seal."""


def write_sealed_table(store: Store, path: str, table: pa.Table, metadata: Mapping[str, str]) -> None:
    """Writes a table as one uncompressed Parquet file, atomically; the same table and metadata give the same bytes.

    Raises:
        StoreError: the store cannot be written.
    """
    unsealed = _to_parquet(table, metadata)
    start, stop = _seal_range(unsealed)
    seal = _seal_of(unsealed).encode()

    def write(local: Path) -> None:
        with local.open("wb") as file:
            file.writelines((unsealed[:start], seal, unsealed[stop:]))

    store.write_file(path, write)


def parse_sealed_table(data: bytes, *, where: str) -> SealedTable:
    """What the bytes of a sealed file hold; `where` names the file in errors.

    Raises:
        ArtifactCorruptError: a byte is not the one that was written, or the file was never sealed.
    """
    view = memoryview(data)
    try:
        start, stop = _seal_range(view)
    except ValueError:
        raise _corrupt(where, f"{len(data):,} bytes without the seal {SEAL_KEY}") from None
    if _seal_of(view) != bytes(view[start:stop]).decode(errors="replace"):
        raise _corrupt(where, "bytes that do not add up to the file's own SHA-256")
    file = pq.ParquetFile(pa.BufferReader(data))
    metadata = {key.decode(): value.decode() for key, value in file.metadata.metadata.items()}
    return SealedTable(file.read(), {k: v for k, v in metadata.items() if k not in (SEAL_KEY, "ARROW:schema")})


def _to_parquet(table: pa.Table, metadata: Mapping[str, str]) -> memoryview:
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,  # for other readers: here the seal covers the pages too
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({**metadata, SEAL_KEY: (_PREFIX + _BLANK).decode()})
    return memoryview(sink.getvalue())


def _seal_range(data: memoryview) -> tuple[int, int]:
    """Where the digits are. Raises `ValueError` when the file has none: it was written by another program, or cut."""
    tail_start = max(0, len(data) - _MAX_FOOTER_BYTES)
    start = bytes(data[tail_start:]).rindex(_PREFIX) + tail_start + len(_PREFIX)
    return start, start + len(_BLANK)


def _seal_of(data: memoryview) -> str:
    start, stop = _seal_range(data)
    digest = hashlib.sha256(data[:start])
    digest.update(_BLANK)
    digest.update(data[stop:])
    return digest.hexdigest()


def _corrupt(where: str, found: str) -> ArtifactCorruptError:
    return ArtifactCorruptError(
        where=where,
        found=found,
        expected="the file as it was written",
        action="Remove it and run the command that made it again; it makes only what is missing.",
    )
