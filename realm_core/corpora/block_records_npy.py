"""`block_records.npy` of the published REALM models: one UTF-8 text a record, as NumPy saves an array of byte strings.

NumPy stores an array of Python objects as a pickle, which can name any function for its reader to call. Here nothing is
unpickled: the file is walked, and only what such an array needs is admitted (`record_pickle`). Arrays of fixed-width
byte strings (`S…`), which hold no pickle, are read as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from realm_core.corpora.compression import truncated
from realm_core.corpora.record_pickle import RecordWalker
from realm_core.errors import SourceError

RECORDS_PER_BATCH = 4096
BYTES_PER_BATCH = 8 << 20
"""A batch ends at whichever of the two comes first, but has at least one record."""

_READ_HEADER = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Header:
    num_records: int
    width_bytes: int
    """Bytes of each record of an `S` array; 0 for an array of objects."""
    data_start: int
    """Where in the file the header ends."""


def num_block_records(path: str | Path) -> int:
    """How many records the file says it has; reads its header only.

    Raises:
        SourceError: no such file, or no one-dimensional array of byte strings in NumPy's format.
    """
    with _open(path) as file:
        return _read_header(file, str(path)).num_records


def read_block_records(path: str | Path) -> Iterator[list[bytes]]:
    """The records, in order, in batches of at most `RECORDS_PER_BATCH` or about `BYTES_PER_BATCH`; calls nothing.

    Memory is one batch and 16 bytes a record. What follows the last record is checked when all have been given.

    Raises:
        SourceError: names the first thing, at its byte, that does not belong into an array of byte strings, such as
            the function `posix.system`; or truncated, damaged, or not as many records as the header says.
    """
    with _open(path) as file:
        header = _read_header(file, str(path))
        batches = _fixed_width(file, header, str(path)) if header.width_bytes else _pickled(file, header, str(path))
        yield from batches


def _open(path: str | Path) -> BinaryIO:
    try:
        return Path(path).open("rb", buffering=1 << 18)
    except OSError as error:
        raise _unusable(str(path), f"a file that cannot be read ({error.strerror})", "Check the path.") from error


def _read_header(file: BinaryIO, where: str) -> _Header:
    try:
        version = npy.read_magic(file)
        shape, is_fortran, dtype = _READ_HEADER[version](file)
    except KeyError as error:
        raise _unusable(where, "NumPy's format in a version that is not 1.0 or 2.0") from error
    except (ValueError, OSError) as error:
        raise _unusable(where, f"no header of NumPy's format ({str(error).splitlines()[0]})") from error
    if dtype.kind not in "OS" or dtype.hasobject != (dtype.kind == "O") or (dtype.kind == "S" and not dtype.itemsize):
        raise _unusable(where, f"an array of the type {dtype}")
    if len(shape) != 1:
        raise _unusable(where, f"an array of the shape {shape}")
    if is_fortran:
        raise _unusable(where, "an array in Fortran order")
    width = dtype.itemsize if dtype.kind == "S" else 0
    return _Header(num_records=shape[0], width_bytes=width, data_start=file.tell())


def _fixed_width(file: BinaryIO, header: _Header, where: str) -> Iterator[list[bytes]]:
    num_bytes = Path(where).stat().st_size - header.data_start
    _check_size(num_bytes, header.num_records * header.width_bytes, where)
    per_batch = max(1, min(RECORDS_PER_BATCH, BYTES_PER_BATCH // header.width_bytes))
    for start in range(0, header.num_records, per_batch):
        size = min(per_batch, header.num_records - start) * header.width_bytes
        yield np.frombuffer(file.read(size), dtype=f"S{header.width_bytes}").tolist()


def _check_size(num_bytes: int, expected: int, where: str) -> None:
    if num_bytes < expected:
        raise truncated(where, f"{num_bytes:,} bytes of records instead of {expected:,}")
    if num_bytes > expected:
        raise _unusable(where, f"{num_bytes - expected:,} bytes after the last record", "Download or copy it again.")


def _pickled(file: BinaryIO, header: _Header, where: str) -> Iterator[list[bytes]]:
    walker = RecordWalker(file, num_records=header.num_records, where=where)
    return walker.batches(max_records=RECORDS_PER_BATCH, max_bytes=BYTES_PER_BATCH)


def _unusable(where: str, found: str, action: str = "Give the block_records.npy of a published model.") -> SourceError:
    expected = "a one-dimensional array of byte strings, as np.save writes it"
    return SourceError(where=where, found=found, expected=expected, action=action)
