"""JSON lines: one document a line, `{"title": …, "text": …}` or `{"title": …, "paragraphs": [...]}`, `id` optional."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from realm_core.corpora.counts import CorpusCounts
from realm_core.corpora.raw_documents import RawDocument, TextFormat
from realm_core.corpora.title_rules import is_dropped_title
from realm_core.errors import SourceError

_EXPECTED = 'an object with "title" and either "text" (a string) or "paragraphs" (a list of strings)'


def raw_documents(
    chunks: Iterable[bytes], *, counts: CorpusCounts, where: str, keep_all_titles: bool = False
) -> Iterator[RawDocument]:
    """Documents in file order. The id is `id` (a string or an integer), or else the title; blank lines are skipped.

    Args:
        chunks: the decompressed bytes, UTF-8.
        counts: `pages` and `dropped_by_title` are counted here; the caller books the rest with `count_cleaned`.
        where: names the source in errors.
        keep_all_titles: switches the title rule off.

    Raises:
        SourceError: names the first line that is no document. A file cut off between two lines cannot be told from
            a complete one.
    """
    for number, line in enumerate(_lines(chunks), start=1):
        if not line.strip():
            continue
        raw = _raw_document(_parsed(line, f"{where}, line {number}"), f"{where}, line {number}")
        counts.pages += 1
        if not keep_all_titles and is_dropped_title(raw.title):
            counts.dropped_by_title += 1
        else:
            yield raw


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    pending: list[bytes] = []
    for chunk in chunks:
        *complete, rest = chunk.split(b"\n")
        for line in complete:
            yield b"".join((*pending, line))
            pending.clear()
        pending.append(rest)
    yield b"".join(pending)


def _parsed(line: bytes, where: str) -> dict[str, object]:
    try:
        parsed = json.loads(line.decode("utf-8-sig"))
        json.dumps(parsed, ensure_ascii=False).encode() if b"\\u" in line else None  # half a surrogate pair
    except (ValueError, RecursionError) as error:
        raise _bad_line(where, f"{_shown(line)} ({error})") from error
    if not isinstance(parsed, dict):
        raise _bad_line(where, _shown(line))
    return parsed


def _raw_document(fields: dict[str, object], where: str) -> RawDocument:
    title, document_id = fields.get("title"), fields.get("id")
    if not isinstance(title, str) or not title.strip():
        raise _bad_line(where, f'"title" {title!r}')
    if not (document_id is None or isinstance(document_id, str | int)) or isinstance(document_id, bool):
        raise _bad_line(where, f'"id" {document_id!r} that is neither a string nor an integer')
    title = " ".join(title.split())
    text = _text(fields, where)
    return RawDocument(title if document_id is None else str(document_id), title, text, TextFormat.PLAIN)


def _text(fields: dict[str, object], where: str) -> str:
    text, paragraphs = fields.get("text"), fields.get("paragraphs")
    if (text is None) == (paragraphs is None):
        raise _bad_line(where, f"the keys {sorted(fields)}")
    if isinstance(text, str):
        return text
    if isinstance(paragraphs, list) and all(isinstance(paragraph, str) for paragraph in paragraphs):
        return "\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    kind = type(paragraphs if text is None else text).__name__
    raise _bad_line(where, f'"{"paragraphs" if text is None else "text"}" of the type {kind}')


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "backslashreplace").strip()
    return text if len(text) <= 60 else f"{text[:57]}..."


def _bad_line(where: str, found: str) -> SourceError:
    return SourceError(where=where, found=found, expected=_EXPECTED, action="Correct or remove that line.")
