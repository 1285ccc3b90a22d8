"""A corpus source at any fsspec URL: what it is, what is in it, how far it has been read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from itertools import islice
from typing import BinaryIO, cast

import fsspec
from fsspec.core import url_to_fs

from realm_core.corpora import jsonl, mediawiki
from realm_core.corpora.compression import CHUNK_BYTES, Compression, Readable, detect_compression, plain_chunks
from realm_core.corpora.counts import CorpusCounts
from realm_core.corpora.raw_documents import RawDocument, clean
from realm_core.errors import SourceError
from realm_core.records import Document

_EXPECTED = "a MediaWiki XML export or JSON lines of documents, plain or compressed with bzip2 or gzip"
_MEDIAWIKI = re.compile(rb"(?:\s*<\?xml[^>]*\?>)?(?:\s*<!--.*?-->)*\s*<mediawiki[\s>]", re.DOTALL)
_HTML = re.compile(rb"\s*(?:<!doctype\s+html|<html|<head|<body)", re.IGNORECASE)
_ARCHIVES = {
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"\xfd7zXZ\x00": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"PAR1": "a Parquet file",
}


class SourceFormat(StrEnum):
    """What a source holds once decompressed."""

    MEDIAWIKI = "mediawiki"
    JSONL = "jsonl"


_READERS = {SourceFormat.MEDIAWIKI: mediawiki.raw_documents, SourceFormat.JSONL: jsonl.raw_documents}


class Source:
    """A source of a known format. Made by `open_source`."""

    def __init__(
        self,
        *,
        url: str,
        fs: fsspec.AbstractFileSystem,
        path: str,
        total_bytes: int | None,
        compression: Compression,
        source_format: SourceFormat,
        keep_all_titles: bool = False,
    ) -> None:
        self.url = url
        self.compression = compression
        self.format = source_format
        self.total_bytes = total_bytes
        """Size of the (compressed) file; None where a server does not tell."""
        self.position_bytes = 0
        """How much of `total_bytes` has been read by the latest reading."""
        self.counts = CorpusCounts()
        """Of the latest reading; complete when it has ended."""
        self._fs = fs
        self._path = path
        self._keep_all_titles = keep_all_titles

    def documents(self) -> Iterator[Document]:
        """All documents, cleaned, in the source's order. Each call reads from the start and counts anew.

        Raises:
            SourceError: damaged, truncated, malformed, or without a single document; never ends early in silence.
        """
        for raw in self.raw_documents():
            document = clean(raw)
            self.counts.count_cleaned(document)
            if document is not None:
                yield document
        self.check_has_documents()

    def raw_documents(self) -> Iterator[RawDocument]:
        """Articles before cleaning, for callers who spread `clean` over processes.

        They book each outcome with `counts.count_cleaned` and call `check_has_documents` at the end.
        """
        self.counts, self.position_bytes = CorpusCounts(), 0
        with _open(self._fs, self._path, self.url) as file:
            chunks = plain_chunks(_Reader(file, self.url, self._advance), self.compression, where=self.url)
            read = _READERS[self.format]
            yield from read(chunks, counts=self.counts, where=self.url, keep_all_titles=self._keep_all_titles)

    def check_has_documents(self) -> None:
        """Raises SourceError when all was read and nothing was worth keeping."""
        if self.counts.documents == 0:
            counts = self.counts
            raise SourceError(
                where=self.url,
                found=f"no article with text ({counts.pages} pages: {counts.redirects} redirects, "
                f"{counts.other_namespaces} of other namespaces, {counts.dropped_by_title} dropped by title, "
                f"{counts.empty} empty)",
                expected="at least one article",
                action="Give a dump of articles, such as enwiki-latest-pages-articles.xml.bz2.",
            )

    def digest(self) -> str:
        """SHA-256 of the file's bytes as they lie there, in hex. Reads the whole file."""
        digest = hashlib.sha256()
        with _open(self._fs, self._path, self.url) as file:
            for chunk in plain_chunks(_Reader(file, self.url, lambda _: None), Compression.NONE, where=self.url):
                digest.update(chunk)
        return digest.hexdigest()

    def _advance(self, num_bytes: int) -> None:
        self.position_bytes += num_bytes


class _Reader:
    """A file that reports its progress and whose failures are ours."""

    def __init__(self, file: Readable, where: str, advance: Callable[[int], None]) -> None:
        self._file, self._where, self._advance = file, where, advance

    def read(self, size: int, /) -> bytes:
        try:
            data = self._file.read(size)
        except OSError as error:
            raise _unreadable(self._where, error) from error
        self._advance(len(data))
        return data


def open_source(url: str, *, keep_all_titles: bool = False) -> Source:
    """Looks into a file at a local path or any fsspec URL, and says what it is by its content, not by its name.

    Args:
        url: of the file.
        keep_all_titles: switches off the rule that drops lists, indexes, outlines and disambiguations.

    Raises:
        SourceError: nothing is there, a directory, an empty file, or neither of the two formats.
    """
    fs, path, total_bytes = _find(url)
    with _open(fs, path, url) as file:
        magic = _Reader(file, url, lambda _: None).read(CHUNK_BYTES)
    compression = detect_compression(magic)
    with _open(fs, path, url) as file:
        chunks = plain_chunks(_Reader(file, url, lambda _: None), compression, where=url)
        head = b"".join(islice(chunks, 1))
    source_format = _detect_format(head, url)
    return Source(
        url=url,
        fs=fs,
        path=path,
        total_bytes=total_bytes,
        compression=compression,
        source_format=source_format,
        keep_all_titles=keep_all_titles,
    )


def _find(url: str) -> tuple[fsspec.AbstractFileSystem, str, int | None]:
    try:
        fs, path = url_to_fs(url)
        facts = fs.info(path)  # not isdir: over HTTP it would download the file
    except FileNotFoundError as error:
        raise _not_a_source(url, "no such file", "Check the path.") from error
    except (OSError, ValueError, ImportError) as error:
        raise _unreadable(url, error) from error
    if facts["type"] == "directory":
        raise _not_a_source(url, "a directory", "Give the file inside it.")
    return fs, path, facts.get("size")


def _detect_format(head: bytes, url: str) -> SourceFormat:
    text = head.removeprefix(b"\xef\xbb\xbf")
    if _MEDIAWIKI.match(text):
        return SourceFormat.MEDIAWIKI
    if text.lstrip().startswith(b"{"):
        return SourceFormat.JSONL
    raise _not_a_source(url, _kind(text), "Check the path; export articles, or write one JSON document a line.")


def _kind(head: bytes) -> str:
    for magic, kind in _ARCHIVES.items():
        if head.startswith(magic):
            return f"{kind}, which must be unpacked first"
    if not head.strip():
        return "an empty file"
    if _HTML.match(head):
        return "an HTML page"
    if head.lstrip().startswith(b"["):
        return "a JSON array"
    if b"\0" in head:
        return "binary data"
    start = head.lstrip()[:40].decode("utf-8", "backslashreplace").splitlines()[0]
    return f"{'XML of another kind' if start.startswith('<') else 'text'} that begins with {start!r}"


def _open(fs: fsspec.AbstractFileSystem, path: str, url: str) -> BinaryIO:
    try:
        return cast(BinaryIO, fs.open(path, "rb"))
    except OSError as error:
        raise _unreadable(url, error) from error


def _not_a_source(url: str, found: str, action: str) -> SourceError:
    return SourceError(where=url, found=found, expected=_EXPECTED, action=action)


def _unreadable(url: str, error: Exception) -> SourceError:
    return SourceError(
        where=url,
        found=f"cannot be read ({type(error).__name__}: {error})",
        expected=_EXPECTED,
        action="Check the URL, its permissions and that the fsspec package for its protocol is installed.",
    )
