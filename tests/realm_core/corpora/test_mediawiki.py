from __future__ import annotations

import tracemalloc

import pytest

from realm_core.corpora.counts import CorpusCounts
from realm_core.corpora.mediawiki import raw_documents
from realm_core.errors import SourceError

XMLNS = "http://www.mediawiki.org/xml/export-0.11/"
SITEINFO = """<siteinfo><namespaces><namespace key="0" /><namespace key="1">Talk</namespace></namespaces></siteinfo>"""


def page(page_id, title, text, *, ns="<ns>0</ns>", extra=""):
    return (
        f"<page><title>{title}</title>{ns}<id>{page_id}</id>{extra}<revision><id>9{page_id}</id><contributor>"
        f"<id>7</id></contributor><text xml:space='preserve'>{text}</text></revision></page>"
    )


def export(*pages, xmlns=XMLNS):
    return f'<mediawiki xmlns="{xmlns}" version="0.11">{SITEINFO}{"".join(pages)}</mediawiki>'.encode()


def read(data, chunk_bytes=1 << 16):
    counts = CorpusCounts()
    chunks = [data[i : i + chunk_bytes] for i in range(0, len(data), chunk_bytes)]
    return list(raw_documents(chunks, counts=counts, where="wiki.xml")), counts


MIXED = export(
    page(5, "Ada Lovelace", "She wrote &lt;b&gt;programs&lt;/b&gt;."),
    page(6, "Old Ada", "#REDIRECT [[Ada]]", extra='<redirect title="Ada" />'),
    page(7, "Talk:Ada", "Hello.", ns="<ns>1</ns>"),
    page(8, "List of Adas", "Many."),
    page(9, "Charles", ""),
)


@pytest.mark.parametrize("chunk_bytes", [1, 7, 1 << 16])
def test_articles_come_in_dump_order_and_the_rest_is_counted(chunk_bytes):
    documents, counts = read(MIXED, chunk_bytes)
    assert [(d.document_id, d.title, d.text) for d in documents] == [
        ("5", "Ada Lovelace", "She wrote <b>programs</b>."),
        ("9", "Charles", ""),
    ]
    assert counts == CorpusCounts(pages=5, redirects=1, other_namespaces=1, dropped_by_title=1)


@pytest.mark.parametrize("xmlns", ["http://www.mediawiki.org/xml/export-0.3/", "http://example.org/export-99/"])
def test_any_export_version_is_read(xmlns):
    documents, _ = read(export(page(1, "A", "Text."), xmlns=xmlns))
    assert documents[0].text == "Text."


def test_an_export_without_xmlns_is_read():
    documents, _ = read(MIXED.replace(f' xmlns="{XMLNS}"'.encode(), b""))
    assert len(documents) == 2


def test_old_exports_name_namespace_and_redirect_in_title_and_text_only():
    documents, counts = read(
        export(
            page(1, "Talk:A", "Hello.", ns=""), page(2, "2001: A Film", "Text.", ns=""), page(3, "B", "#redirect [[A]]")
        )
    )
    assert [document.title for document in documents] == ["2001: A Film"]
    assert (counts.other_namespaces, counts.redirects) == (1, 1)


def test_the_last_revision_of_a_full_history_counts():
    newer = "<revision><id>2</id><text>New.</text></revision></page>"
    documents, counts = read(export(page(1, "A", "Old.").replace("</page>", newer), page(2, "B", "Other.")))
    assert [document.text for document in documents] == ["New.", "Other."]
    assert counts.pages == 2


def test_a_cut_at_any_byte_is_an_error():
    for stop in range(MIXED.index(b"<page>"), len(MIXED) - 1, 3):
        with pytest.raises(SourceError, match="truncated: the XML ends in the middle"):
            read(MIXED[:stop])


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (export("<page></pag>"), "malformed XML"),
        (b"<rss><item/></rss>", "XML whose root is <rss>"),
        (export(page("", "A", "Text.")), "a <page> without id or title"),
        (MIXED + b"<mediawiki/>", "malformed XML"),
    ],
)
def test_what_is_no_export_is_named(data, found):
    with pytest.raises(SourceError) as caught:
        read(data)
    assert caught.value.where == "wiki.xml"
    assert caught.value.found.startswith(found)


def test_memory_does_not_grow_with_the_dump():
    text = "word " * 2_000

    def chunks():
        yield f'<mediawiki xmlns="{XMLNS}">'.encode()
        for page_id in range(1, 2_001):
            yield page(page_id, f"Title {page_id}", text).encode()
        yield b"</mediawiki>"

    tracemalloc.start()
    num_documents = sum(1 for _ in raw_documents(chunks(), counts=CorpusCounts(), where="wiki.xml"))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_documents == 2_000
    assert peak_bytes < 1_000_000  # of 20 MB
