from __future__ import annotations

import json

import pytest

from realm_core.corpora.counts import CorpusCounts
from realm_core.corpora.jsonl import raw_documents
from realm_core.corpora.raw_documents import clean
from realm_core.errors import SourceError
from realm_core.records import Document


def read(*lines, chunk_bytes=5, **options):
    data = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    chunks = [data[i : i + chunk_bytes] for i in range(0, len(data), chunk_bytes)]
    counts = CorpusCounts()
    return [clean(raw) for raw in raw_documents(chunks, counts=counts, where="a.jsonl", **options)], counts


def test_text_is_split_to_paragraphs_at_line_ends():
    documents, counts = read({"title": "A  b", "text": "One.\n\n Two\tthree. \r\nFour."})
    assert documents == [Document("A b", "A b", ("One.", "Two three.", "Four."))]
    assert counts.pages == 1


def test_paragraphs_stay_whole_and_empty_ones_go():
    documents, _ = read({"id": 7, "title": "A", "paragraphs": ["One\nmore.", " ", "Two."]})
    assert documents == [Document("7", "A", ("One more.", "Two."))]


def test_title_rule_and_blank_lines():
    documents, counts = read({"title": "List of x", "text": "a"}, b"", b"  ", {"title": "B", "text": "é"}, b"")
    assert [document.title for document in documents] == ["B"]
    assert counts == CorpusCounts(pages=2, dropped_by_title=1)


def test_all_titles_are_kept_on_request():
    documents, counts = read({"title": "List of x", "text": "a"}, keep_all_titles=True)
    assert [document.title for document in documents] == ["List of x"]
    assert counts == CorpusCounts(pages=1)


def test_a_document_without_text_is_empty():
    assert read({"title": "A", "text": " \n "})[0] == [None]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"title": "cut off', '{"title": "cut off'),
        (b"[1, 2]", "[1, 2]"),
        (b"\xff\xfe{}", "\\xff\\xfe{}"),
        (b'{"title": "A", "text": "\\ud800"}', '{"title"'),
        ({"text": "no title"}, '"title" None'),
        ({"title": " ", "text": "a"}, '"title"'),
        ({"title": "A"}, "the keys ['title']"),
        ({"title": "A", "text": "a", "paragraphs": []}, "the keys"),
        ({"title": "A", "text": 3}, '"text" of the type int'),
        ({"title": "A", "paragraphs": ["a", 3]}, '"paragraphs" of the type list'),
        ({"title": "A", "text": "a", "id": True}, '"id" True'),
    ],
)
def test_a_bad_line_is_named_with_its_number(line, found):
    with pytest.raises(SourceError) as caught:
        read({"title": "A", "text": "a"}, b"", line)
    assert caught.value.where == "a.jsonl, line 3"
    assert caught.value.found.startswith(found)
    assert "\n" not in str(caught.value)
