from __future__ import annotations

import bz2
import gzip
import io

import pytest

from realm_core.corpora.compression import Compression, detect_compression, plain_chunks
from realm_core.errors import SourceError

PLAIN = bytes(range(256)) * 700
PACK = {Compression.BZ2: bz2.compress, Compression.GZIP: gzip.compress}
both = pytest.mark.parametrize("compression", [Compression.BZ2, Compression.GZIP])


def unpack(data: bytes, compression: Compression) -> bytes:
    return b"".join(plain_chunks(io.BytesIO(data), compression, where="a.dump"))


@both
def test_many_streams_are_one_text(compression):
    packed = b"".join(PACK[compression](piece) for piece in (PLAIN, b"", b"second", PLAIN))
    assert detect_compression(packed) is compression
    assert unpack(packed, compression) == PLAIN + b"second" + PLAIN


@both
def test_a_cut_inside_any_stream_is_an_error(compression):
    packed = PACK[compression](b"first" * 20) + PACK[compression](b"second" * 20)
    boundary = len(PACK[compression](b"first" * 20))
    for stop in range(1, len(packed)):
        if stop != boundary:
            with pytest.raises(SourceError, match="truncated: the file ends inside"):
                unpack(packed[:stop], compression)


@both
def test_rubbish_after_a_whole_stream_is_an_error(compression):
    with pytest.raises(SourceError, match=f"damaged {compression} data"):
        unpack(PACK[compression](PLAIN) + b"rubbish that is no stream", compression)


def test_gzip_may_be_padded_with_zeros():
    assert unpack(gzip.compress(PLAIN) + b"\0" * 512, Compression.GZIP) == PLAIN


@both
def test_a_flipped_byte_is_an_error(compression):
    packed = bytearray(PACK[compression](PLAIN))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(SourceError):
        unpack(bytes(packed), compression)


def test_plain_bytes_pass_unchanged():
    assert detect_compression(b"<mediawiki>") is Compression.NONE
    assert unpack(PLAIN, Compression.NONE) == PLAIN
