from __future__ import annotations

import bz2
import json
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

REPO_ROOT = Path(__file__).resolve().parents[2]
QUESTIONS_FILE = REPO_ROOT / "pipelines" / "demo_questions.jsonl"
DUMP_FOLDER = REPO_ROOT.parent / "shared" / "data" / "enwiki_excerpt"

needs_dump = pytest.mark.skipif(
    not DUMP_FOLDER.is_dir(),
    reason="the Wikipedia excerpt is not beside the repository (../shared/data/enwiki_excerpt)",
)


@cache
def questions() -> list[dict[str, Any]]:
    lines = QUESTIONS_FILE.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@cache
def wikitext_by_title() -> dict[str, str]:
    """Articles of the dump (namespace 0, no redirects): title to raw wikitext."""
    articles = {}
    for dump in sorted(DUMP_FOLDER.glob("*.bz2")):
        with bz2.open(dump) as stream:
            for _, page in ElementTree.iterparse(stream):
                if page.tag.endswith("}page") and page.find("{*}redirect") is None and page.findtext("{*}ns") == "0":
                    articles[page.findtext("{*}title") or ""] = page.findtext("{*}revision/{*}text") or ""
    return articles


def test_there_are_at_least_a_hundred_questions_on_fifty_titles() -> None:
    assert len(questions()) >= 100
    assert len({row["title"] for row in questions()}) >= 50


def test_every_line_has_exactly_a_question_answers_and_a_title() -> None:
    malformed = [row for row in questions() if set(row) != {"question", "answers", "title"}]
    assert malformed == []
    for row in questions():
        assert isinstance(row["title"], str), row
        assert row["title"] == row["title"].strip() != "", row
        assert isinstance(row["question"], str), row
        assert row["question"].endswith("?"), row


def test_no_question_is_asked_twice() -> None:
    asked = [row["question"].casefold() for row in questions()]
    assert sorted({text for text in asked if asked.count(text) > 1}) == []


def test_every_answer_is_a_text_that_the_question_does_not_give_away() -> None:
    for row in questions():
        assert isinstance(row["answers"], list), row
        assert row["answers"], row
        for answer in row["answers"]:
            assert isinstance(answer, str), row
            assert answer == answer.strip() != "", row
            assert answer.casefold() not in row["question"].casefold(), row
            assert answer != row["title"], row


@needs_dump
def test_every_title_is_an_article_of_the_dump() -> None:
    unknown = {row["title"] for row in questions()} - set(wikitext_by_title())
    assert unknown == set()


@needs_dump
def test_every_first_answer_stands_in_the_text_of_its_article() -> None:
    absent = [row for row in questions() if row["answers"][0] not in wikitext_by_title()[row["title"]]]
    assert absent == []
