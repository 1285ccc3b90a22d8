from __future__ import annotations

import numpy as np
import pytest
from support.published import texts, write_tokenizer

from realm_core.conversion import part_converter
from realm_core.conversion.part_converter import PartConverter, PartSource, PublishedEmbeddings
from realm_core.errors import SourceError
from realm_core.modeling.checkpoints import load_tokenizer
from realm_core.storage.block_store import read_part
from realm_core.storage.embedding_store import embedding_digest, read_embeddings
from realm_core.storage.files import Store

RECORDS = [text.encode() for text in texts(20)]
NAMES = PublishedEmbeddings(encoder_digest="e" * 64, precision="published-abc")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return load_tokenizer(folder)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


def converter(store, tokenizer, *, max_block_tokens=512, embeddings=NAMES):
    return PartConverter(
        store, tokenizer=tokenizer, max_block_tokens=max_block_tokens, embeddings=embeddings, where="records.npy"
    )


def source(first_record=0, records=RECORDS, seed=0):
    rows = np.random.default_rng(seed).normal(size=(len(records), 4)).astype(np.float32)
    return PartSource(first_record=first_record, records=records, embeddings_RD=rows)


def test_rows_records_and_embeddings_stay_aligned_and_duplicates_stay(store, tokenizer):
    given = source(first_record=40)
    done = converter(store, tokenizer).convert(given)
    assert (done.entry.num_rows, done.entry.first_block_id) == (20, 40)
    table = read_part(store, done.entry)
    assert [body.encode() for body in table["body"].to_pylist()] == RECORDS
    assert table["document_id"].to_pylist() == [str(number) for number in range(40, 60)]
    assert len(set(RECORDS)) == 18
    digest = embedding_digest(done.entry.digest, NAMES.encoder_digest, NAMES.precision)
    uids, rows = read_embeddings(store, digest, done.entry)
    assert np.array_equal(rows, given.embeddings_RD)
    assert uids.tobytes() == done.uids.tobytes()
    assert done.entry.num_tokens == sum(len(ids) for ids in table["body_token_ids"].to_pylist())


def test_a_finished_part_is_found_by_its_marker_and_given_back_alike(store, tokenizer):
    first = converter(store, tokenizer, max_block_tokens=30).convert(source())
    again = converter(store, tokenizer, max_block_tokens=30).convert(source())
    assert (first.was_reused, first.embeddings_were_reused) == (False, False)
    assert (again.was_reused, again.embeddings_were_reused) == (True, True)
    assert again.entry == first.entry
    assert again.num_truncated == first.num_truncated > 0
    assert again.uids.tobytes() == first.uids.tobytes()


@pytest.mark.parametrize(
    ("change", "given"),
    [
        ({}, source(first_record=20)),
        ({}, source(records=[*RECORDS[:-1], b"another"])),
        ({}, source(records=[RECORDS[0] + RECORDS[1], b"", *RECORDS[2:]])),
        ({"max_block_tokens": 64}, source()),
    ],
)
def test_what_a_part_depends_on_is_in_its_markers_name(store, tokenizer, change, given):
    converter(store, tokenizer).convert(source())
    assert not converter(store, tokenizer, **change).convert(given).was_reused
    assert len(store.list("conversions")) == 2


def test_newer_rules_do_not_take_old_parts(store, tokenizer, monkeypatch):
    converter(store, tokenizer).convert(source())
    monkeypatch.setattr(part_converter, "CONVERT_RULES", part_converter.CONVERT_RULES + 1)
    assert not converter(store, tokenizer).convert(source()).was_reused


def test_embeddings_of_another_publication_are_written_beside_the_first(store, tokenizer):
    converter(store, tokenizer).convert(source())
    other = PublishedEmbeddings(encoder_digest=NAMES.encoder_digest, precision="published-def")
    done = converter(store, tokenizer, embeddings=other).convert(source(seed=1))
    assert (done.was_reused, done.embeddings_were_reused) == (True, False)
    assert len(store.list("embeddings")) == 2


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"part": "x", "num_truncated": 0, "unknown": 1}'])
def test_a_damaged_marker_means_that_the_part_is_made_again(store, tokenizer, content):
    first = converter(store, tokenizer).convert(source())
    path = f"conversions/{store.list('conversions')[0]}"
    whole = store.read_bytes(path)
    store.write_bytes(path, content)
    assert converter(store, tokenizer).convert(source()).entry == first.entry
    assert store.read_bytes(path) == whole


def test_a_record_that_is_no_utf_8_is_named_by_its_number(store, tokenizer):
    with pytest.raises(SourceError, match=r"records\.npy, record 1,003: bytes that are no UTF-8 .*byte 2"):
        converter(store, tokenizer).convert(source(first_record=1000, records=[*RECORDS[:3], b"ab\xff"]))
    assert store.list("parts") == store.list("conversions") == []
