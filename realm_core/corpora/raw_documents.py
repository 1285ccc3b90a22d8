"""Articles as they lie in a source, before the costly cleaning, which other processes may do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from realm_core.corpora.wikitext import plain_paragraphs
from realm_core.records import Document

_LINE_END = re.compile(r"[\r\n\v\f\x85\u2028\u2029]+")


class TextFormat(StrEnum):
    """How the text of a raw document is written."""

    WIKITEXT = "wikitext"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class RawDocument:
    """One article that passed the title rule, with its text as found."""

    document_id: str
    title: str
    text: str
    text_format: TextFormat


def clean(raw: RawDocument) -> Document | None:
    """The document with its plain paragraphs, or None when no prose is left. Pure, hence safe in any process."""
    if raw.text_format is TextFormat.WIKITEXT:
        paragraphs = plain_paragraphs(raw.text)
    else:
        paragraphs = [" ".join(line.split()) for line in _LINE_END.split(raw.text)]
    kept = tuple(paragraph for paragraph in paragraphs if paragraph)
    return Document(raw.document_id, raw.title, kept) if kept else None
