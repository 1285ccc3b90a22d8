"""Decompression that never ends early in silence.

The standard library's `BZ2File` ignores whatever follows the first stream if it is no stream itself, so a damaged
multi-stream dump would look complete. Here each byte must belong to a whole stream.
"""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Protocol

from realm_core.errors import SourceError

CHUNK_BYTES = 1 << 16
"""Bytes read at a time: small enough for a smooth progress bar, large enough to cost nothing."""


class Compression(StrEnum):
    """How the bytes of a source are packed."""

    NONE = "none"
    BZ2 = "bz2"
    GZIP = "gzip"


class Readable(Protocol):
    """A binary file, as far as it is needed."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


class _Decompressor(Protocol):
    def decompress(self, data: bytes, /) -> bytes: ...
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


_NEW_DECOMPRESSOR: dict[Compression, Callable[[], _Decompressor]] = {
    Compression.BZ2: bz2.BZ2Decompressor,
    Compression.GZIP: lambda: zlib.decompressobj(wbits=31),
}


def detect_compression(head: bytes) -> Compression:
    """By the magic bytes of a file's beginning; the name does not count."""
    if head.startswith(b"BZh"):
        return Compression.BZ2
    return Compression.GZIP if head.startswith(b"\x1f\x8b") else Compression.NONE


def plain_chunks(file: Readable, compression: Compression, *, where: str) -> Iterator[bytes]:
    """The decompressed bytes, in order, of one stream or of many in a row.

    Raises:
        SourceError: the file is damaged, or ends inside a stream.
    """
    raw_chunks = iter(lambda: file.read(CHUNK_BYTES), b"")
    if compression is Compression.NONE:
        return raw_chunks
    return _decompressed(raw_chunks, compression, where)


def _decompressed(raw_chunks: Iterator[bytes], compression: Compression, where: str) -> Iterator[bytes]:
    new_stream = _NEW_DECOMPRESSOR[compression]
    stream, inside = new_stream(), False
    for raw in raw_chunks:
        rest = raw
        while rest:
            if not inside and compression is Compression.GZIP and not (rest := rest.lstrip(b"\0")):
                break  # gzip files may be padded with zeros
            try:
                plain = stream.decompress(rest)
            except (OSError, zlib.error) as error:
                raise _damaged(where, compression, str(error)) from error
            inside, rest = not stream.eof, stream.unused_data if stream.eof else b""
            if plain:
                yield plain
            if stream.eof:
                stream = new_stream()
    if inside:
        raise truncated(where, f"the file ends inside a {compression} stream")


def truncated(where: str, found: str) -> SourceError:
    """The error of a source that was cut off."""
    return SourceError(
        where=where,
        found=f"truncated: {found}",
        expected="the complete file",
        action="Download or copy it again and compare its size and checksum with the publisher's.",
    )


def _damaged(where: str, compression: Compression, reason: str) -> SourceError:
    return SourceError(
        where=where,
        found=f"damaged {compression} data ({reason})",
        expected=f"an intact {compression} file",
        action="Download or copy it again and compare its checksum with the publisher's.",
    )
