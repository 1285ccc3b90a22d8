"""`realm convert` on a tiny model in the published form, and what can be done with the store afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.published import (
    BLOCK_RECORDS,
    POSITIONS,
    embedder_tensors,
    texts,
    write_model,
    write_open_qa,
    write_records,
)

from pipelines.ask import run_ask
from pipelines.cli import main
from pipelines.configs.ask import AskConfig
from pipelines.configs.convert import ConvertConfig
from pipelines.configs.index import IndexConfig
from pipelines.configs.search import SearchConfig
from pipelines.convert import run_convert
from pipelines.index import run_index
from pipelines.search import run_search
from realm_core.errors import EncoderError, SourceError, StoreError
from realm_core.modeling.checkpoints import encoder_digest, load_encoder, load_tokenizer, tokenizer_digest
from realm_core.modeling.open_qa import RealmForOpenQA
from realm_core.modeling.retriever import RealmRetriever
from realm_core.modeling.weights import read_tensors
from realm_core.records import block_uid
from realm_core.storage.block_store import BlockRecords, load_corpus, part_path, read_part
from realm_core.storage.digests import digest_of_uids
from realm_core.storage.embedding_store import embedding_digest, embedding_path, read_embeddings
from realm_core.storage.encoder_pointer import EncoderVersion, current_encoder, set_current_encoder
from realm_core.storage.files import Store
from realm_core.storage.reader_store import (
    current_reader,
    has_current_reader,
    reader_folder,
    set_current_reader,
)
from realm_core.storage.snapshots import load_snapshot

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]

NUM_RECORDS = 700
ROWS_PER_PART = 128
LONG = " ".join(["The bridge of Redcliff was built in 1850 by Ada Fenn."] * 20)
RECORDS = [*texts(NUM_RECORDS - 3), LONG, "", "Ünïcödé — \u6771\u4eac."]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_open_qa(tmp_path_factory.mktemp("published") / "model", RECORDS)


def config(store, model, **changes):
    return ConvertConfig(**{"store": str(store), "model": str(model), "rows_per_part": ROWS_PER_PART, **changes})


@pytest.fixture(scope="module")
def converted(ray_cluster, tmp_path_factory, model):
    """The store after one conversion, and its report."""
    folder = tmp_path_factory.mktemp("converted") / "store"
    return Store(str(folder)), run_convert(config(folder, model))


def published_digests(store):
    encoder = current_encoder(store)
    return [embedding_digest(p.digest, encoder.digest, encoder.published_precision) for p in load_corpus(store).parts]


def test_row_i_of_the_store_is_record_i_of_the_file(converted):
    store, _ = converted
    corpus = load_corpus(store)
    assert [part.first_block_id for part in corpus.parts] == list(range(0, NUM_RECORDS, ROWS_PER_PART))
    rows = BlockRecords(store, corpus).take(range(NUM_RECORDS))
    assert [row["body"] for row in rows] == RECORDS
    assert [row["document_id"] for row in rows] == [str(number) for number in range(NUM_RECORDS)]
    assert {row["title"] for row in rows} == {""}
    assert [row["uid"] for row in rows] == [block_uid("", record) for record in RECORDS]
    uids = np.array([block_uid("", record) for record in RECORDS], dtype="V20")
    assert corpus.uid_digest == digest_of_uids(uids)


def test_token_ids_are_those_of_the_models_own_tokenizer_cut_to_its_positions(converted, model):
    store, report = converted
    tokenizer = load_tokenizer(model)
    corpus = load_corpus(store)
    assert corpus.tokenizer_digest == tokenizer_digest(tokenizer)
    found = [row["body_token_ids"] for row in BlockRecords(store, corpus).take(range(NUM_RECORDS))]
    whole = [tokenizer.encode(record, add_special_tokens=False).ids for record in RECORDS]
    assert found == [ids[: POSITIONS - 3] for ids in whole]
    num_long = sum(len(ids) > POSITIONS - 3 for ids in whole)
    assert num_long >= 1
    assert report.records.done.num_truncated == num_long == corpus.counts["truncated"]
    assert corpus.counts["records"] == NUM_RECORDS


def test_row_i_of_block_emb_is_the_embedding_of_block_i(converted, model):
    store, _ = converted
    corpus = load_corpus(store)
    pairs = zip(published_digests(store), corpus.parts, strict=True)
    embeddings = [read_embeddings(store, digest, part) for digest, part in pairs]
    expected = read_tensors(model)["block_emb"].numpy()
    assert np.array_equal(np.concatenate([rows for _, rows in embeddings]), expected)
    stored = [uid.tobytes() for uids, _ in embeddings for uid in uids]
    assert stored == [block_uid("", record) for record in RECORDS]


def test_the_encoder_and_the_reader_are_the_models(converted, model):
    store, _ = converted
    encoder, reader = current_encoder(store), current_reader(store)
    assert encoder.digest == encoder_digest(load_encoder(model).embedder) == reader.encoder_digest
    assert encoder.published_precision.startswith("published-")
    kept = read_tensors(reader_folder(store, reader.digest))
    source = read_tensors(model)
    assert kept.keys() == source.keys() - {"block_emb"}
    assert all(torch.equal(kept[name], source[name]) for name in kept)
    assert tokenizer_digest(load_tokenizer(reader_folder(store, reader.digest))) == load_corpus(store).tokenizer_digest


def test_the_report_adds_up(converted):
    _, report = converted
    done = report.records.done
    assert (done.num_converted, done.num_reused) == (NUM_RECORDS, 0)
    assert (done.num_embeddings_written, done.num_embeddings_reused) == (NUM_RECORDS, 0)
    rows = dict(report.rows())
    assert rows["records"] == "700 = 700 converted + 0 reused"
    assert rows["block embeddings"].startswith("700 = 700 written + 0 reused, published-")
    assert "was there" not in rows["encoder"] + rows["reader"]


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


def test_an_incomplete_reader_is_refused_before_it_is_stored(tmp_path, model):
    tensors = read_tensors(model)
    del tensors["reader.qa_outputs.dense_output.weight"]
    broken = write_model(tmp_path / "broken", {n: t.clone() for n, t in tensors.items()}, "RealmForOpenQA")
    records = str(model / BLOCK_RECORDS)
    with pytest.raises(EncoderError, match=r"no tensor reader\.qa_outputs\.dense_output\.weight"):
        run_convert(config(tmp_path / "store", broken, block_records=records))
    assert not has_current_reader(Store(str(tmp_path / "store")))


def test_computed_embeddings_of_the_same_encoder_are_others(converted, capsys):
    store, _ = converted
    main(["embed", "--store", store.url, "--precision", "fp32"])
    published = published_digests(store)
    assert len(store.list("embeddings")) == 2 * len(published)
    computed = run_index(IndexConfig(store=store.url, precision="fp32"))
    assert load_snapshot(store).precision == "fp32"
    assert computed.snapshot_id != run_index(IndexConfig(store=store.url)).snapshot_id
    assert load_snapshot(store).precision.startswith("published-")


def test_a_rerun_says_that_everything_was_there(ray_cluster, tmp_path, model, capsys):
    store = Store(str(tmp_path / "store"))
    first = run_convert(config(store.url, model))
    saved_at = current_encoder(store).saved_at_seconds
    again = run_convert(config(store.url, model))
    assert (again.records.done.num_converted, again.records.done.num_reused) == (0, NUM_RECORDS)
    assert again.records.done.num_embeddings_reused == NUM_RECORDS
    assert again.records.done.num_truncated == first.records.done.num_truncated
    assert again.records.corpus == first.records.corpus
    assert "was there already" in again.encoder
    assert "was there already" in again.reader
    assert current_encoder(store).saved_at_seconds == saved_at


def test_a_rerun_makes_what_was_damaged_and_only_that(ray_cluster, tmp_path, model):
    store = Store(str(tmp_path / "store"))
    first = run_convert(config(store.url, model))
    parts, embeddings = load_corpus(store).parts, published_digests(store)
    intact = store.read_bytes(part_path(parts[1].digest)), store.read_bytes(embedding_path(embeddings[2]))
    store.write_bytes(part_path(parts[1].digest), intact[0][:-50])
    store.remove(embedding_path(embeddings[2]))
    name = store.list("conversions")[0]
    store.write_bytes(f"conversions/{name}", b"{")
    again = run_convert(config(store.url, model)).records
    assert again.corpus == first.records.corpus
    assert ROWS_PER_PART <= again.done.num_converted <= 2 * ROWS_PER_PART
    assert again.done.num_embeddings_written == ROWS_PER_PART
    assert store.read_bytes(part_path(parts[1].digest)) == intact[0]
    assert store.read_bytes(embedding_path(embeddings[2])) == intact[1]


def test_a_run_killed_in_the_middle_is_gone_on_with(ray_cluster, tmp_path, model):
    """The first run is a process of its own, killed with its cluster when some parts are done."""
    store, rows_per_part = Store(str(tmp_path / "store")), 8
    command = [sys.executable, "-m", "pipelines.cli", "convert", "--store", store.url, "--model", str(model)]
    command += ["--rows-per-part", str(rows_per_part)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(store.list("conversions")) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    num_done, num_parts = len(store.list("conversions")), -(-NUM_RECORDS // rows_per_part)
    assert 3 <= num_done < num_parts, "killed too early or too late: nothing was tested"
    assert not store.exists("corpora/CURRENT")
    assert not store.exists("encoders/CURRENT")
    done = run_convert(config(store.url, model, rows_per_part=rows_per_part)).records.done
    assert num_done * rows_per_part <= done.num_reused < NUM_RECORDS
    assert done.num_converted + done.num_reused == NUM_RECORDS
    corpus = load_corpus(store)
    assert sum(part.num_rows for part in corpus.parts) == NUM_RECORDS
    assert [row["body"] for row in BlockRecords(store, corpus).take(range(NUM_RECORDS))] == RECORDS


def test_block_records_can_lie_elsewhere(ray_cluster, tmp_path, model, converted):
    alone = tmp_path / "weights-alone"
    alone.mkdir()
    for file in model.iterdir():
        if file.name != BLOCK_RECORDS:
            (alone / file.name).symlink_to(file)
    with pytest.raises(SourceError, match=r"block embeddings without block_records\.npy.*--block-records"):
        run_convert(config(tmp_path / "store", alone))
    assert not (tmp_path / "store").exists()
    report = run_convert(config(tmp_path / "store", alone, block_records=str(model / BLOCK_RECORDS)))
    assert report.records.corpus.digest == converted[1].records.corpus.digest


@pytest.mark.parametrize("architecture", ["RealmEmbedder", "RealmScorer"])
def test_an_embedder_alone_is_converted_and_the_rest_is_said_to_be_missing(tmp_path, architecture):
    tensors = embedder_tensors(seed=3)
    if architecture == "RealmScorer":
        tensors = {f"{part}.{name}": t for part in ("embedder", "query_embedder") for name, t in tensors.items()}
    model = write_model(tmp_path / "model", tensors, architecture)
    report = run_convert(config(tmp_path / "store", model))
    store = Store(str(tmp_path / "store"))
    assert dict(report.rows())["records"] == "none in this model"
    assert dict(report.rows())["reader"] == f"none in this model (a {architecture})"
    assert current_encoder(store).digest == encoder_digest(load_encoder(model).embedder)
    assert current_encoder(store).published_precision is None
    assert not has_current_reader(store)


def test_an_embedder_with_block_records_is_left_to_be_embedded(ray_cluster, tmp_path, model):
    alone = write_model(tmp_path / "model", embedder_tensors(seed=3), "RealmEmbedder")
    store = Store(str(tmp_path / "store"))
    report = run_convert(config(store.url, alone, block_records=str(model / BLOCK_RECORDS)))
    assert dict(report.rows())["block embeddings"] == "none in this model: run `realm embed` next"
    with pytest.raises(StoreError, match="Run `realm embed`"):
        run_index(IndexConfig(store=store.url))


@pytest.mark.parametrize("architecture", ["RealmReader", "RealmKnowledgeAugEncoder"])
def test_a_model_without_an_embedder_is_refused(tmp_path, architecture):
    tensors = {name: t for name, t in embedder_tensors().items() if not name.startswith("cls.dense")}
    model = write_model(tmp_path / "model", tensors, architecture)
    with pytest.raises(EncoderError, match=f"neither an embedder nor block records .a {architecture}"):
        run_convert(config(tmp_path / "store", model))


def test_the_same_encoder_alone_does_not_hide_its_published_embeddings(tmp_path, model):
    alone = write_model(tmp_path / "model", embedder_tensors(), "RealmEmbedder")
    store = Store(str(tmp_path / "store"))
    version = EncoderVersion(
        digest=encoder_digest(load_encoder(alone).embedder),
        step=0,
        saved_at_seconds=5.0,
        published_precision="published-x",
    )
    set_current_encoder(store, version)
    run_convert(config(store.url, alone))
    assert current_encoder(store) == version


BAD_ROWS = [
    (lambda rows: rows[:-1], "699 rows; expected 700"),
    (lambda rows: rows[:, :-1], r"shape \[700, 15\]; expected .* \[blocks, 16\]"),
    (lambda rows: rows.int(), "int32"),
    (lambda rows: rows.index_fill(0, torch.tensor([417]), float("nan")), "NaN or infinity in row 417"),
    (lambda rows: rows.index_fill(0, torch.tensor([5]), float("inf")), "NaN or infinity in row 5"),
    (lambda rows: rows.index_fill(0, torch.tensor([699]), 0), "all zeros in row 699"),
]


@pytest.mark.parametrize(("change", "found"), BAD_ROWS)
def test_block_embeddings_that_are_unfit_are_refused_before_any_part_is_made(tmp_path, change, found):
    rows = torch.randn(NUM_RECORDS, 16)
    model = write_open_qa(tmp_path / "model", RECORDS, block_emb=change(rows).clone())
    with pytest.raises(EncoderError, match=found):
        run_convert(config(tmp_path / "store", model))
    assert Store(str(tmp_path / "store")).list("parts") == []


@pytest.fixture
def copied(tmp_path, model):
    """The model's files, to be damaged."""
    directory = tmp_path / "copied"
    directory.mkdir()
    for file in model.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    return directory


def test_damaged_records_leave_the_store_without_a_corpus(ray_cluster, tmp_path, copied):
    file = copied / BLOCK_RECORDS
    whole = file.read_bytes()
    for content, found in (
        (whole[:-200], "truncated"),
        (whole + b"x", "1 bytes after the end"),
        (whole.replace(b"Norwick", b"Norw\xffck", 1), r"record \d+: bytes that are no UTF-8"),
    ):
        file.write_bytes(content)
        with pytest.raises(SourceError, match=found):
            run_convert(config(tmp_path / "store", copied))
        assert not (tmp_path / "store" / "corpora").exists()
        assert not (tmp_path / "store" / "encoders" / "CURRENT").exists()
    file.write_bytes(whole)
    assert run_convert(config(tmp_path / "store", copied)).records.done.num_reused >= ROWS_PER_PART


def test_hostile_files_run_no_code(ray_cluster, tmp_path, copied):
    class Harmful:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'was-run'}",))

    weights = torch.load(copied / "pytorch_model.bin")
    torch.save({**weights, "embedder.extra": Harmful()}, copied / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"posix\.system"):
        run_convert(config(tmp_path / "store", copied))
    torch.save(weights, copied / "pytorch_model.bin")
    write_records(copied / BLOCK_RECORDS, [*RECORDS[:-1], Harmful()])
    with pytest.raises(SourceError, match=r"posix\.system"):
        run_convert(config(tmp_path / "store", copied))
    assert not (tmp_path / "was-run").exists()


def test_empty_records_and_a_bert_checkpoint_are_refused(tmp_path, model, tiny_bert):
    empty = write_records(tmp_path / "empty.npy", [])
    with pytest.raises(SourceError, match="no records"):
        run_convert(config(tmp_path / "store", model, block_records=str(empty)))
    with pytest.raises(EncoderError, match=r"model_type 'bert'.*realm ingest"):
        run_convert(config(tmp_path / "store", tiny_bert))


def test_an_encoder_with_another_vocabulary_than_the_corpus_is_refused(tmp_path, converted):
    store, _ = converted
    alone = write_model(tmp_path / "model", embedder_tensors(seed=3), "RealmEmbedder")
    tokenizer = (alone / "tokenizer.json").read_text()
    (alone / "tokenizer.json").write_text(
        tokenizer.replace('"lowercase":true', '"lowercase":false').replace('"lowercase": true', '"lowercase": false')
    )
    before = current_encoder(store)
    with pytest.raises(EncoderError, match="expected tokenizer"):
        run_convert(config(store.url, alone))
    assert current_encoder(store) == before


def test_part_tables_have_the_schema_of_ingest(converted):
    store, _ = converted
    part = load_corpus(store).parts[0]
    table = read_part(store, part)
    assert table.num_rows == ROWS_PER_PART
    starts = table["sentence_starts"].to_pylist()
    assert all(not found or found[0] == 0 for found in starts)
    assert any(table["salient_span_starts"].to_pylist())
