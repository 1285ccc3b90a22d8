"""From lines without markup to clean paragraphs."""

from __future__ import annotations

import re
from collections.abc import Iterator

_SENTENCE_END = re.compile(r"[.!?…。！？]['\"”’)\]»]*$")
_HALF_TABLE = re.compile(r"^(?:\||!|\{\||\|\})")
_LEFT_OVER = re.compile(r"\{\{+|\}\}+|\[\[+|\]\]+|\{\||\|\}|</?ref\b[^<>]*>?|\bthumb\|")
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u2060\ufeff]")
_FILLER = r"(?:[\s;,:/–—\-.·•]|\b(?:or|and|also|pronounced|listen|from|in|locally|help|info)\b)"
_EMPTY_BRACKETS = re.compile(rf"\({_FILLER}*\)|\[\s*\]|“\s*”")
_OPENED_BADLY = re.compile(r"([(\[])[\s;,:/]+(?=\S)")
_CLOSED_BADLY = re.compile(r"(?<![\s;,:/])[\s;,:/]+([)\]])")
_DOUBLE_COMMA = re.compile(r"([,;:])(?:\s*[,;])+")
_SPACE_BEFORE = re.compile(r"\s+([,;.!?%)\]](?=[\s\"'”’)\]]|$))")
_POINTER = re.compile(r"(?:See also|See|Main articles?|Further information|For other uses)\b")
_MAX_WORDS_POINTER = 12
_MIN_WORDS = 3
_MIN_WORDS_ITEM = 5
_MIN_WORDS_UNENDED = 12


def prose_paragraphs(text: str) -> list[str]:
    """Consecutive plain lines are one paragraph, as MediaWiki shows them; a list item is a paragraph of its own."""
    paragraphs = []
    for is_item, joined in _joined_lines(text):
        paragraph = _tidy(joined)
        if _is_prose(paragraph, is_item):
            paragraphs.append(paragraph)
    return paragraphs


def _joined_lines(text: str) -> Iterator[tuple[bool, str]]:
    lines: list[str] = []
    for line in text.split("\n"):
        stripped = line.strip()
        is_item = stripped[:1] in ("*", "#", ":", ";")
        if lines and (is_item or not stripped):
            yield False, " ".join(lines)
            lines = []
        if is_item:
            yield True, stripped.lstrip("*#:; ")
        elif stripped and not _HALF_TABLE.match(stripped):
            lines.append(stripped)
    if lines:
        yield False, " ".join(lines)


def _is_prose(paragraph: str, is_item: bool) -> bool:
    """Sentences end with a mark; captions, labels, rows of names and "There are three kinds:" do not."""
    num_words = paragraph.count(" ") + 1
    if _POINTER.match(paragraph) and num_words <= _MAX_WORDS_POINTER:
        return False
    if _SENTENCE_END.search(paragraph):
        return num_words >= (_MIN_WORDS_ITEM if is_item else _MIN_WORDS)
    return not is_item and num_words >= _MIN_WORDS_UNENDED


def _tidy(text: str) -> str:
    """Closes the gaps that dropped templates leave: "(; )", " ,", two spaces."""
    text = _LEFT_OVER.sub("", " ".join(_INVISIBLE.sub("", text).split()))
    if "(" in text or "[" in text:
        text = _EMPTY_BRACKETS.sub("", _CLOSED_BADLY.sub(r"\1", _OPENED_BADLY.sub(r"\1", text)))
    text = _SPACE_BEFORE.sub(r"\1", _DOUBLE_COMMA.sub(r"\1", text))
    return " ".join(text.split())
