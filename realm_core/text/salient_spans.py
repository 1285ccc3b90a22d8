"""Salient spans: the dates and names that REALM masks, so that filling them in needs knowledge of the world.

The paper (Guu et al. 2020, section 3.4) finds names with a trained tagger; `RuleTagger` needs no model and prefers to
miss a name rather than to mask a common word.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from realm_core.text.dates import date_offsets
from realm_core.text.names import name_offsets


class SpanKind(StrEnum):
    """What a salient span names."""

    DATE = "date"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class SalientSpan:
    """Half-open character offsets in a sentence."""

    start: int
    stop: int
    kind: SpanKind


class SalientSpanTagger(Protocol):
    """Finds what is worth masking."""

    def tag(self, sentence: str) -> list[SalientSpan]:
        """The spans of one sentence, sorted and disjoint."""


class RuleTagger:
    """Dates by grammar, names by capital letters."""

    def tag(self, sentence: str) -> list[SalientSpan]:
        """Dates win over names they touch ("April 1865" is no name)."""
        dates = date_offsets(sentence)
        spans = [SalientSpan(start, stop, SpanKind.DATE) for start, stop in dates]
        for start, stop in name_offsets(sentence):
            if all(stop <= date_start or date_stop <= start for date_start, date_stop in dates):
                spans.append(SalientSpan(start, stop, SpanKind.NAME))
        return sorted(spans, key=lambda span: span.start)
