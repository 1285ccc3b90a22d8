"""What became of every page of a corpus source."""

from __future__ import annotations

from dataclasses import dataclass

from realm_core.records import Document


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
