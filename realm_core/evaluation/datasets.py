"""Question sets: JSON lines of our own form and of NQ-open, plain or compressed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass

import fsspec

from realm_core.corpora.compression import detect_compression, plain_chunks
from realm_core.errors import SourceError

EXPECTED_LINE = '{"question": "…", "answers": ["…", …], "title": "…"}; "title" may be left out, "answer" is read too'

HEAD_BYTES = 3
"""That tell how a file is compressed."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question with every answer that counts as right."""

    question: str
    answers: tuple[str, ...]
    """At least one; never empty strings."""
    title: str | None
    """Title of the article it was asked about; None where the set does not say (NQ-open)."""


def read_questions(url: str) -> list[Question]:
    """The questions of a JSON-lines file, plain or compressed with bzip2 or gzip, in order; any fsspec URL.

    Raises:
        SourceError: The file cannot be read, is cut off, has no question, or has a bad line, whose number is named.
    """
    try:
        with fsspec.open(url, "rb") as file:
            compression = detect_compression(file.read(HEAD_BYTES))
            file.seek(0)
            text = b"".join(plain_chunks(file, compression, where=url)).decode("utf-8")
        return parse_questions(io.StringIO(text, newline=None), source=url)
    except (OSError, ValueError, ImportError) as error:
        raise _error(url, f"{type(error).__name__}: {error}") from error


def parse_questions(lines: Iterable[str], *, source: str) -> list[Question]:
    """The questions of JSON lines, in order; empty lines are passed over. `source` names them in errors."""
    numbered = enumerate(lines, start=1)
    questions = [parse_question(line, where=f"{source}, line {number}") for number, line in numbered if line.strip()]
    if not questions:
        raise _error(source, "no question")
    return questions


def parse_question(line: str, *, where: str) -> Question:
    """The question of one JSON line; keys that are not ours are passed over."""
    try:
        record = json.loads(line)
    except ValueError as error:
        raise _error(where, f"no JSON ({error})") from error
    if not isinstance(record, dict):
        raise _error(where, f"a JSON {type(record).__name__}")
    question, title = record.get("question"), record.get("title")
    answers = record["answers"] if "answers" in record else record.get("answer", [])
    problems = [
        *(["no question text"] if not _is_text(question) else []),
        *(["no list of answer texts"] if not _is_list_of_texts(answers) else []),
        *(["a title that is no text"] if title is not None and not _is_text(title) else []),
    ]
    if problems:
        raise _error(where, ", ".join(problems))
    return Question(str(question), tuple(answers), title)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _error(where: str, found: str) -> SourceError:
    return SourceError(
        where=where,
        found=found,
        expected=f"JSON lines such as {EXPECTED_LINE}",
        action="Correct the file, or check its path.",
    )
