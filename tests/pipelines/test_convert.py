"""`realm convert` on a tiny model in the published form: what is in the store afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.conversions import NUM_RECORDS, RECORDS, ROWS_PER_PART, convert_config, published_digests
from support.published import (
    BLOCK_RECORDS,
    POSITIONS,
    embedder_tensors,
    write_model,
)

from pipelines.configs.index import IndexConfig
from pipelines.convert import run_convert
from pipelines.index import run_index
from realm_core.errors import SourceError, StoreError
from realm_core.modeling.checkpoints import encoder_digest, load_encoder, load_tokenizer, tokenizer_digest
from realm_core.modeling.weights import read_tensors
from realm_core.records import block_uid
from realm_core.storage.block_store import BlockRecords, load_corpus, read_part
from realm_core.storage.digests import digest_of_uids
from realm_core.storage.embedding_store import read_embeddings
from realm_core.storage.encoder_pointer import EncoderVersion, current_encoder, set_current_encoder
from realm_core.storage.files import Store
from realm_core.storage.reader_store import (
    current_reader,
    has_current_reader,
    reader_folder,
)

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]


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


def test_part_tables_have_the_schema_of_ingest(converted):
    store, _ = converted
    part = load_corpus(store).parts[0]
    table = read_part(store, part)
    assert table.num_rows == ROWS_PER_PART
    starts = table["sentence_starts"].to_pylist()
    assert all(not found or found[0] == 0 for found in starts)
    assert any(table["salient_span_starts"].to_pylist())


def test_block_records_can_lie_elsewhere(ray_cluster, tmp_path, model, converted):
    alone = tmp_path / "weights-alone"
    alone.mkdir()
    for file in model.iterdir():
        if file.name != BLOCK_RECORDS:
            (alone / file.name).symlink_to(file)
    with pytest.raises(SourceError, match=r"block embeddings without block_records\.npy.*--block-records"):
        run_convert(convert_config(tmp_path / "store", alone))
    assert not (tmp_path / "store").exists()
    report = run_convert(convert_config(tmp_path / "store", alone, block_records=str(model / BLOCK_RECORDS)))
    assert report.records.corpus.digest == converted[1].records.corpus.digest


@pytest.mark.parametrize("architecture", ["RealmEmbedder", "RealmScorer"])
def test_an_embedder_alone_is_converted_and_the_rest_is_said_to_be_missing(tmp_path, architecture):
    tensors = embedder_tensors(seed=3)
    if architecture == "RealmScorer":
        tensors = {f"{part}.{name}": t for part in ("embedder", "query_embedder") for name, t in tensors.items()}
    model = write_model(tmp_path / "model", tensors, architecture)
    report = run_convert(convert_config(tmp_path / "store", model))
    store = Store(str(tmp_path / "store"))
    assert dict(report.rows())["records"] == "none in this model"
    assert dict(report.rows())["reader"] == f"none in this model (a {architecture})"
    assert current_encoder(store).digest == encoder_digest(load_encoder(model).embedder)
    assert current_encoder(store).published_precision is None
    assert not has_current_reader(store)


def test_an_embedder_with_block_records_is_left_to_be_embedded(ray_cluster, tmp_path, model):
    alone = write_model(tmp_path / "model", embedder_tensors(seed=3), "RealmEmbedder")
    store = Store(str(tmp_path / "store"))
    report = run_convert(convert_config(store.url, alone, block_records=str(model / BLOCK_RECORDS)))
    assert dict(report.rows())["block embeddings"] == "none in this model: run `realm embed` next"
    with pytest.raises(StoreError, match="Run `realm embed`"):
        run_index(IndexConfig(store=store.url))


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
    run_convert(convert_config(store.url, alone))
    assert current_encoder(store) == version
