"""MediaWiki XML exports, streamed: one page is in memory at a time, whatever the size of the dump."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast
from xml.parsers.expat import errors as expat_errors

from realm_core.corpora.compression import truncated
from realm_core.corpora.counts import CorpusCounts
from realm_core.corpora.raw_documents import RawDocument, TextFormat
from realm_core.corpora.title_rules import is_dropped_title
from realm_core.errors import SourceError

_REDIRECT = re.compile(r"\s*#REDIRECT\b", re.IGNORECASE)
_ENDED_TOO_EARLY = {
    expat_errors.codes[message]
    for message in (
        expat_errors.XML_ERROR_NO_ELEMENTS,
        expat_errors.XML_ERROR_UNCLOSED_TOKEN,
        expat_errors.XML_ERROR_PARTIAL_CHAR,
        expat_errors.XML_ERROR_UNCLOSED_CDATA_SECTION,
    )
}


@dataclass(frozen=True, slots=True)
class _Page:
    page_id: str
    title: str
    is_article: bool
    is_redirect: bool
    text: str


def raw_documents(
    chunks: Iterable[bytes], *, counts: CorpusCounts, where: str, keep_all_titles: bool = False
) -> Iterator[RawDocument]:
    """Articles in dump order; everything else is counted in `counts`.

    Args:
        chunks: the decompressed XML.
        counts: `pages` and the three reasons to drop a page are counted here; the caller books the rest with
            `count_cleaned`.
        where: names the source in errors.
        keep_all_titles: switches the title rule off.

    Raises:
        SourceError: the XML is malformed, is no MediaWiki export, or ends too early.
    """
    for page in _pages(chunks, where):
        counts.pages += 1
        if not page.is_article:
            counts.other_namespaces += 1
        elif page.is_redirect:
            counts.redirects += 1
        elif not keep_all_titles and is_dropped_title(page.title):
            counts.dropped_by_title += 1
        else:
            yield RawDocument(page.page_id, page.title, page.text, TextFormat.WIKITEXT)


def _pages(chunks: Iterable[bytes], where: str) -> Iterator[_Page]:
    export = _Export(where)
    for event, element in _events(chunks, where):
        if event == "start":
            export.started(element)
        elif page := export.ended(element):
            yield page


def _events(chunks: Iterable[bytes], where: str) -> Iterator[tuple[str, ET.Element]]:
    parser: ET.XMLPullParser[ET.Element] = ET.XMLPullParser(("start", "end"))
    try:
        for chunk in chunks:
            parser.feed(chunk)
            yield from _typed(parser)
        parser.close()
        yield from _typed(parser)
    except ET.ParseError as error:
        if error.code in _ENDED_TOO_EARLY:
            raise truncated(where, f"the XML ends in the middle, at line {error.position[0]}") from error
        raise _malformed(where, f"malformed XML ({error})") from error


def _typed(parser: ET.XMLPullParser[ET.Element]) -> Iterator[tuple[str, ET.Element]]:
    return cast(Iterator[tuple[str, ET.Element]], parser.read_events())


class _Export:
    """What must be remembered between the elements of one export."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._root: ET.Element | None = None
        self._xmlns = ""
        self._namespace_names: frozenset[str] = frozenset()
        self._text = ""

    def started(self, element: ET.Element) -> None:
        if self._root is None:
            if not element.tag.endswith("mediawiki"):
                raise _malformed(self._where, f"XML whose root is <{element.tag}>")
            self._root, self._xmlns = element, element.tag.removesuffix("mediawiki")

    def ended(self, element: ET.Element) -> _Page | None:
        """The page, if `element` closes one. Elements are emptied as soon as they have been read."""
        tag = element.tag.removeprefix(self._xmlns)
        if tag == "revision":  # a full-history dump holds many of one page, oldest first
            self._text = element.findtext(f"{self._xmlns}text") or ""
            element.clear()
        elif tag == "siteinfo":
            names = element.iter(f"{self._xmlns}namespace")
            self._namespace_names = frozenset(name.text for name in names if name.text)
        elif tag == "page" and self._root is not None:
            page = self._page(element)
            self._text = ""
            self._root.clear()
            return page
        return None

    def _page(self, element: ET.Element) -> _Page:
        page_id = (element.findtext(f"{self._xmlns}id") or "").strip()
        title = (element.findtext(f"{self._xmlns}title") or "").strip()
        if not page_id or not title:
            raise _malformed(self._where, f"a <page> without id or title (id {page_id!r}, title {title!r})")
        is_redirect = element.find(f"{self._xmlns}redirect") is not None or _REDIRECT.match(self._text) is not None
        return _Page(page_id, title, self._is_article(element, title), is_redirect, self._text)

    def _is_article(self, element: ET.Element, title: str) -> bool:
        number = element.findtext(f"{self._xmlns}ns")
        if number is not None:
            return number.strip() == "0"
        return title.partition(":")[0] not in self._namespace_names  # exports before version 0.6


def _malformed(where: str, found: str) -> SourceError:
    return SourceError(
        where=where,
        found=found,
        expected="a MediaWiki XML export",
        action="Download it again, or export the pages with Special:Export or dumpBackup.php.",
    )
