from __future__ import annotations

import bz2
import gzip
import hashlib
import json
from pathlib import Path

import fsspec
import pytest

from realm_core.corpora.compression import Compression
from realm_core.corpora.counts import CorpusCounts
from realm_core.corpora.raw_documents import clean
from realm_core.corpora.source import SourceFormat, open_source
from realm_core.errors import SourceError

PAGES = [
    f"<page><title>Title {n}</title><ns>0</ns><id>{n}</id><revision><text>Sentence {n} is here, {'x' * n}.</text>"
    "</revision></page>"
    for n in range(1, 40)
]
HEAD = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">'
XML = f"{HEAD}{''.join(PAGES)}</mediawiki>".encode()
JSONL = b"".join(json.dumps({"title": f"T{n}", "text": f"Text {n}."}).encode() + b"\n" for n in range(30))
EXCERPTS = sorted(Path(__file__).parents[4].glob("shared/data/enwiki_excerpt/*.bz2"))


def write(folder, data, name="corpus.dat"):
    path = folder / name
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("data", [XML, JSONL, b"\xef\xbb\xbf" + XML, b"<?xml version='1.0'?>\n<!-- a dump -->\n" + XML])
@pytest.mark.parametrize("pack", [bytes, bz2.compress, gzip.compress])
def test_format_is_told_by_content_whatever_the_name(tmp_path, data, pack):
    source = open_source(write(tmp_path, pack(data), "misleading.txt"))
    documents = list(source.documents())
    assert source.format is (SourceFormat.JSONL if data is JSONL else SourceFormat.MEDIAWIKI)
    assert len(documents) == source.counts.documents == (30 if data is JSONL else 39)
    assert source.counts.add_up
    assert source.position_bytes == source.total_bytes == len(pack(data))


@pytest.mark.parametrize("data", [XML.replace(b"Title 7", b"List of x"), JSONL.replace(b"T7", b"List of x")])
def test_titles_are_dropped_by_rule_or_kept(tmp_path, data):
    path = write(tmp_path, data)
    for keep_all_titles in (False, True):
        source = open_source(path, keep_all_titles=keep_all_titles)
        titles = [document.title for document in source.documents()]
        assert ("List of x" in titles) is keep_all_titles
        assert source.counts.dropped_by_title == (not keep_all_titles)
        assert source.counts.add_up


def test_multi_stream_bz2_as_wikipedia_publishes_it(tmp_path):
    streams = [HEAD, "".join(PAGES[:20]), "".join(PAGES[20:]), "</mediawiki>"]
    source = open_source(write(tmp_path, b"".join(bz2.compress(stream.encode()) for stream in streams)))
    assert source.compression is Compression.BZ2
    assert [document.document_id for document in source.documents()] == [str(n) for n in range(1, 40)]


def test_reading_twice_gives_the_same_and_digest_is_of_the_file(tmp_path):
    data = bz2.compress(XML)
    source = open_source(write(tmp_path, data))
    first, counts = list(source.documents()), source.counts
    assert list(source.documents()) == first
    assert source.counts == counts
    assert source.digest() == hashlib.sha256(data).hexdigest()


def test_any_fsspec_url():
    with fsspec.open("memory://dumps/wiki.xml.gz", "wb") as file:
        file.write(gzip.compress(XML))
    assert sum(1 for _ in open_source("memory://dumps/wiki.xml.gz").documents()) == 39


def test_cleaning_elsewhere_counts_the_same(tmp_path):
    source = open_source(write(tmp_path, XML))
    cleaned = []
    for raw in source.raw_documents():
        cleaned.append(clean(raw))
        source.counts.count_cleaned(cleaned[-1])
    counts = source.counts
    assert cleaned == list(source.documents())
    assert counts == source.counts


@pytest.mark.parametrize("pack", [bytes, bz2.compress, gzip.compress])
@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_an_export_cut_anywhere_never_ends_in_silence(tmp_path, pack, fraction):
    data = pack(XML)
    url = write(tmp_path, data[: int(len(data) * fraction)])
    with pytest.raises(SourceError, match="truncated"):
        list(open_source(url).documents())


def test_multi_stream_bz2_cut_between_two_streams(tmp_path):
    url = write(tmp_path, bz2.compress((HEAD + PAGES[0]).encode()))
    with pytest.raises(SourceError, match="truncated: the XML ends in the middle"):
        list(open_source(url).documents())


def test_json_lines_cut_inside_a_line(tmp_path):
    with pytest.raises(SourceError, match="line 30"):
        list(open_source(write(tmp_path, JSONL[:-5])).documents())


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "an empty file"),
        (b" \n\n", "an empty file"),
        (gzip.compress(b""), "an empty file"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (bz2.compress(b"<html>"), "an HTML page"),
        (b"Dear reader,\nthis is prose.", "text that begins with 'Dear reader,'"),
        (b"<rss version='2'>", "XML of another kind"),
        (b"[{}]", "a JSON array"),
        (b"\x7fELF\0\0\0", "binary data"),
        (b"7z\xbc\xaf\x27\x1c....", "a 7z archive, which must be unpacked first"),
    ],
)
def test_what_is_no_source_is_named(tmp_path, data, found):
    url = write(tmp_path, data)
    with pytest.raises(SourceError) as caught:
        open_source(url)
    assert caught.value.found.startswith(found)
    assert caught.value.where == url
    assert "\n" not in str(caught.value)


def test_nothing_there_a_directory_and_an_unknown_protocol(tmp_path):
    for url, found in [
        (str(tmp_path / "no.xml"), "no such file"),
        (str(tmp_path), "a directory"),
        ("nonsense://x/y", "cannot be read"),
    ]:
        with pytest.raises(SourceError, match=found):
            open_source(url)


def test_an_export_without_an_article_is_an_error(tmp_path):
    redirect = "<page><title>A</title><ns>0</ns><id>1</id><redirect title='B'/><revision><text/></revision></page>"
    source = open_source(write(tmp_path, f"{HEAD}{redirect}</mediawiki>".encode()))
    with pytest.raises(SourceError, match="no article with text \\(1 pages: 1 redirects"):
        list(source.documents())


@pytest.mark.skipif(not EXCERPTS, reason="needs the Wikipedia excerpt beside the repository")
def test_counts_of_a_real_dump():
    source = open_source(str(EXCERPTS[0]))
    documents = list(source.documents())
    assert source.counts == CorpusCounts(
        pages=206, redirects=99, other_namespaces=1, dropped_by_title=7, empty=1, documents=98
    )
    text = "\n".join(paragraph for document in documents for paragraph in document.paragraphs)
    for left_over in ("{{", "}}", "[[", "]]", "<ref", "thumb|", "( ", "()", "&nbsp;", "'''", "http://", "{|"):
        assert left_over not in text
    assert 2_500_000 < len(text) < 3_000_000
