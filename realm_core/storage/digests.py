"""Digests: every artifact is named by the digest of what it is made from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa


def digest_of(*parts: object) -> str:
    """SHA-256 (hex) of plain JSON values; the order of a mapping's keys does not matter."""
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    """SHA-256 (hex) of a local file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_table(table: pa.Table) -> str:
    """SHA-256 (hex) of a table's values, whatever its chunks, offsets and file format.

    Reads strings, binaries, numbers and lists of numbers; a column without nulls is asked for.
    """
    digest = hashlib.sha256()
    for name in table.column_names:
        column = table[name].combine_chunks()
        digest.update(f"{name}:{len(column)};".encode())
        for array in _plain_arrays(column):
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def digest_of_uids(uids: np.ndarray) -> str:
    """SHA-256 (hex) of a collection of uids, in whatever order; `uids` is an array of 20-byte scalars (V20)."""
    return hashlib.sha256(np.sort(uids.view("S20")).tobytes()).hexdigest()


def _plain_arrays(column: pa.Array) -> list[np.ndarray]:
    kind = column.type
    if pa.types.is_list(kind):
        return [np.diff(column.offsets.to_numpy()), column.flatten().to_numpy()]
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        values = column.cast(pa.large_binary())
        offsets = np.frombuffer(values.buffers()[1], dtype=np.int64)[values.offset : values.offset + len(values) + 1]
        data = np.frombuffer(values.buffers()[2] or b"", dtype=np.uint8)
        return [np.diff(offsets), data[offsets[0] : offsets[-1]]]
    if pa.types.is_fixed_size_binary(kind):
        return [fixed_binary_to_numpy(column)]
    return [column.to_numpy()]


def fixed_binary_to_numpy(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A fixed-size binary column as an array of void scalars (`V20` for uids), without copying where it is whole."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    width = column.type.byte_width
    values = np.frombuffer(column.buffers()[1] or b"", dtype=np.dtype(f"V{width}"))
    return values[column.offset : column.offset + len(column)]
