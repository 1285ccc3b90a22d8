"""What can be done with a converted store: index, search, ask, embed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.conversions import NUM_RECORDS, RECORDS, published_digests

from pipelines.ask import run_ask
from pipelines.cli import main
from pipelines.configs.ask import AskConfig
from pipelines.configs.index import IndexConfig
from pipelines.configs.search import SearchConfig
from pipelines.index import run_index
from pipelines.search import run_search
from realm_core.errors import StoreError
from realm_core.modeling.open_qa import RealmForOpenQA
from realm_core.modeling.retriever import RealmRetriever
from realm_core.storage.encoder_pointer import current_encoder
from realm_core.storage.reader_store import (
    current_reader,
    set_current_reader,
)
from realm_core.storage.snapshots import load_snapshot

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]


def test_convert_index_search_ask_without_embedding(converted, capsys):
    store, _ = converted
    run_index(IndexConfig(store=store.url))
    snapshot = load_snapshot(store)
    assert snapshot.precision == current_encoder(store).published_precision
    assert snapshot.num_rows == NUM_RECORDS
    assert sorted(store.list("embeddings")) == sorted(f"{digest}.parquet" for digest in published_digests(store))
    result = run_search(SearchConfig(text="Who built the bridge of Redcliff?", store=store.url))
    assert all(block.body == RECORDS[block.block_id] for block in result.queries[0])
    main(["ask", "Who built the tower of Norwick?", "--store", store.url])
    printed = capsys.readouterr().out
    assert printed.count("relevance") == 3
    assert printed.count("answer: ") == 1
    for precision in ("fp32", "bf16"):
        with pytest.raises(StoreError, match=f"without whole {precision} embeddings"):
            run_index(IndexConfig(store=store.url, precision=precision))


def test_answers_from_the_store_are_those_of_the_published_model(converted, model):
    store, _ = converted
    snapshot_id = run_index(IndexConfig(store=store.url)).snapshot_id
    questions = ("Who built the tower of Norwick?", "When was it built?", "by Ada Fenn")
    found = run_ask(AskConfig(questions=questions, store=store.url, num_evidence=5))
    assert found.snapshot_id == snapshot_id
    published = RealmForOpenQA.from_pretrained(model, retriever=RealmRetriever.from_pretrained(model)).eval()
    tokenizer = published.retriever.tokenizer
    for question, answer, evidence in zip(questions, found.answers, found.queries, strict=True):
        output = published(**tokenizer([question], return_tensors="pt"))
        assert answer.text == tokenizer.decode(output.predicted_answer_ids)
        assert answer.block_id == evidence[output.reader_output.block_idx].block_id


def test_a_reader_of_another_encoder_is_not_asked(converted, capsys):
    store, _ = converted
    snapshot_id = run_index(IndexConfig(store=store.url)).snapshot_id
    reader = current_reader(store)
    set_current_reader(store, replace(reader, encoder_digest="0" * 64))
    try:
        found = run_ask(AskConfig(questions=("Who?",), store=store.url))
    finally:
        set_current_reader(store, reader)
    assert found.answers == ()
    assert f"belongs to another encoder than snapshot {snapshot_id}" in capsys.readouterr().err


def test_computed_embeddings_of_the_same_encoder_are_others(converted, capsys):
    store, _ = converted
    main(["embed", "--store", store.url, "--precision", "fp32"])
    published = published_digests(store)
    assert len(store.list("embeddings")) == 2 * len(published)
    computed = run_index(IndexConfig(store=store.url, precision="fp32"))
    assert load_snapshot(store).precision == "fp32"
    assert computed.snapshot_id != run_index(IndexConfig(store=store.url)).snapshot_id
    assert load_snapshot(store).precision.startswith("published-")
