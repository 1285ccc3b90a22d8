"""What became of every page of a corpus source, and of every paragraph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from realm_core.records import Document

if TYPE_CHECKING:
    from realm_core.text.blocking import BlockedDocument


@dataclass(slots=True)
class CorpusCounts:
    """Filled while a source is read; each page ends in exactly one of the other five."""

    pages: int = 0
    """Pages of a MediaWiki export, or lines of JSON."""
    redirects: int = 0
    other_namespaces: int = 0
    """Pages that are no articles: talk, user, template, category, …"""
    dropped_by_title: int = 0
    """Lists, indexes, outlines and disambiguations (`title_rules`)."""
    empty: int = 0
    """Articles of which no prose is left."""
    documents: int = 0

    @property
    def add_up(self) -> bool:
        """True when no page is unaccounted for."""
        dropped = self.redirects + self.other_namespaces + self.dropped_by_title + self.empty
        return self.pages == self.documents + dropped

    def count_cleaned(self, document: Document | None) -> None:
        """Books the outcome of `clean` on one raw document."""
        if document is None:
            self.empty += 1
        else:
            self.documents += 1


@dataclass(slots=True)
class ParagraphCounts:
    """Filled while paragraphs are made into blocks: paragraphs = blocks + duplicate blocks + empty paragraphs."""

    paragraphs: int = 0
    empty_paragraphs: int = 0
    """Without a single word piece, such as control characters alone."""
    truncated_blocks: int = 0
    """Longer than a block; counted before duplicates are dropped."""

    def count(self, document: Document, blocked: BlockedDocument) -> None:
        """Books a document of which each paragraph with a token became a block."""
        self.paragraphs += len(document.paragraphs)
        self.empty_paragraphs += len(document.paragraphs) - len(blocked.blocks)
        self.truncated_blocks += blocked.num_truncated
