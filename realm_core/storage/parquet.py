"""Parquet files whose damage is noticed: page checksums are written, and verified on every read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from realm_core.errors import ArtifactCorruptError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from realm_core.storage.files import Store


def write_table(store: Store, path: str, table: pa.Table, *, compression: str = "zstd") -> None:
    """Writes a table as one Parquet file, atomically."""

    def write(local: Path) -> None:
        pq.write_table(
            table,
            local,
            compression=compression,
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        )

    store.write_file(path, write)


def read_table(store: Store, path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a table, verifying each page's checksum.

    Raises:
        ArtifactMissingError: no such file.
        ArtifactCorruptError: truncated, or a byte is not the one that was written.
        StoreError: it cannot be read, whatever is in it.
    """

    def read(local: Path) -> pa.Table:
        try:
            return pq.read_table(local, columns=columns, page_checksum_verification=True, partitioning=None)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the system, such as a missing permission: it says nothing of the bytes
            raise ArtifactCorruptError(
                where=f"{store.url}/{path}",
                found=f"a Parquet file that cannot be read ({str(error).splitlines()[0]})",
                expected="the file as it was written",
                action="Remove it and run the command that made it again; it makes only what is missing.",
            ) from error

    return store.read_checked(path, read)


def read_parquet_metadata(store: Store, path: str) -> dict[str, str] | None:
    """What a file says of itself, from its last bytes, without downloading it; None for one that is damaged.

    Raises:
        ArtifactMissingError: no such file.
        StoreError: it cannot be read.
    """

    def read(file: BinaryIO) -> dict[str, str] | None:
        try:
            metadata = pq.read_metadata(file).metadata or {}
            return {key.decode(): value.decode() for key, value in metadata.items()}
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the system, such as a missing permission: it says nothing of the bytes
            return None

    return store.read_open(path, read)
