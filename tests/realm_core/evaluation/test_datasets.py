from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from realm_core.errors import SourceError
from realm_core.evaluation.datasets import Question, read_questions

OWN = '{"question": "Where is Oslo?", "answers": ["Norway", "norge"], "title": "Oslo"}'
NQ_OPEN = '{"question": "where is øl brewed", "answer": ["Bryggeri"]}'


def written(folder: Path, *lines: str) -> str:
    path = folder / "questions.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_both_forms_are_read_in_order(tmp_path: Path) -> None:
    assert read_questions(written(tmp_path, OWN, "", NQ_OPEN)) == [
        Question("Where is Oslo?", ("Norway", "norge"), "Oslo"),
        Question("where is øl brewed", ("Bryggeri",), None),
    ]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_a_compressed_file_is_read_and_one_cut_off_is_an_error(tmp_path: Path, compress: Callable) -> None:
    path = tmp_path / "questions"
    whole = compress(Path(written(tmp_path, OWN, NQ_OPEN)).read_bytes())
    path.write_bytes(whole)
    assert read_questions(str(path)) == read_questions(written(tmp_path, OWN, NQ_OPEN))
    path.write_bytes(whole[:-5])
    with pytest.raises(SourceError, match="truncated"):
        read_questions(str(path))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("{", r"no JSON"),
        ('["a"]', "a JSON list"),
        ('{"answers": ["a"]}', "no question text"),
        ('{"question": " ", "answers": ["a"]}', "no question text"),
        ('{"question": "q"}', "no list of answer texts"),
        ('{"question": "q", "answers": []}', "no list of answer texts"),
        ('{"question": "q", "answers": "abc"}', "no list of answer texts"),
        ('{"question": "q", "answers": ["a", ""]}', "no list of answer texts"),
        ('{"question": "q", "answers": null}', "no list of answer texts"),
        ('{"question": "q", "answers": ["a"], "title": 3}', "a title that is no text"),
        ('{"question": 1, "answers": [2]}', "no question text, no list of answer texts"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: str, found: str) -> None:
    with pytest.raises(SourceError, match=f"questions.jsonl, line 3: {found}"):
        read_questions(written(tmp_path, OWN, "", line))


def test_a_file_without_questions_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no question;"):
        read_questions(written(tmp_path, ""))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="FileNotFoundError"):
        read_questions(str(tmp_path / "nothing.jsonl"))


def test_a_file_of_another_encoding_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"question": "øl", "answers": ["a"]}'.encode("latin-1"))
    with pytest.raises(SourceError, match="UnicodeDecodeError"):
        read_questions(str(path))
