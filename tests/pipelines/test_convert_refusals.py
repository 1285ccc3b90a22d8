"""What `realm convert` refuses, and that it leaves nothing behind."""

from __future__ import annotations

import os

import pytest
import torch
from support.conversions import NUM_RECORDS, RECORDS, ROWS_PER_PART, convert_config
from support.published import (
    BLOCK_RECORDS,
    embedder_tensors,
    write_model,
    write_open_qa,
    write_records,
)

from pipelines.convert import run_convert
from realm_core.errors import EncoderError, SourceError
from realm_core.modeling.weights import read_tensors
from realm_core.storage.encoder_pointer import current_encoder
from realm_core.storage.files import Store
from realm_core.storage.reader_store import (
    has_current_reader,
)

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]


def test_an_incomplete_reader_is_refused_before_it_is_stored(tmp_path, model):
    tensors = read_tensors(model)
    del tensors["reader.qa_outputs.dense_output.weight"]
    broken = write_model(tmp_path / "broken", {n: t.clone() for n, t in tensors.items()}, "RealmForOpenQA")
    records = str(model / BLOCK_RECORDS)
    with pytest.raises(EncoderError, match=r"no tensor reader\.qa_outputs\.dense_output\.weight"):
        run_convert(convert_config(tmp_path / "store", broken, block_records=records))
    assert not has_current_reader(Store(str(tmp_path / "store")))


@pytest.mark.parametrize("architecture", ["RealmReader", "RealmKnowledgeAugEncoder"])
def test_a_model_without_an_embedder_is_refused(tmp_path, architecture):
    tensors = {name: t for name, t in embedder_tensors().items() if not name.startswith("cls.dense")}
    model = write_model(tmp_path / "model", tensors, architecture)
    with pytest.raises(EncoderError, match=f"neither an embedder nor block records .a {architecture}"):
        run_convert(convert_config(tmp_path / "store", model))


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
        run_convert(convert_config(tmp_path / "store", model))
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
            run_convert(convert_config(tmp_path / "store", copied))
        assert not (tmp_path / "store" / "corpora").exists()
        assert not (tmp_path / "store" / "encoders" / "CURRENT").exists()
    file.write_bytes(whole)
    assert run_convert(convert_config(tmp_path / "store", copied)).records.done.num_reused >= ROWS_PER_PART


def test_hostile_files_run_no_code(ray_cluster, tmp_path, copied):
    class Harmful:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'was-run'}",))

    weights = torch.load(copied / "pytorch_model.bin")
    torch.save({**weights, "embedder.extra": Harmful()}, copied / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"posix\.system"):
        run_convert(convert_config(tmp_path / "store", copied))
    torch.save(weights, copied / "pytorch_model.bin")
    write_records(copied / BLOCK_RECORDS, [*RECORDS[:-1], Harmful()])
    with pytest.raises(SourceError, match=r"posix\.system"):
        run_convert(convert_config(tmp_path / "store", copied))
    assert not (tmp_path / "was-run").exists()


def test_empty_records_and_a_bert_checkpoint_are_refused(tmp_path, model, tiny_bert):
    empty = write_records(tmp_path / "empty.npy", [])
    with pytest.raises(SourceError, match="no records"):
        run_convert(convert_config(tmp_path / "store", model, block_records=str(empty)))
    with pytest.raises(EncoderError, match=r"model_type 'bert'.*realm ingest"):
        run_convert(convert_config(tmp_path / "store", tiny_bert))


def test_an_encoder_with_another_vocabulary_than_the_corpus_is_refused(tmp_path, converted):
    store, _ = converted
    alone = write_model(tmp_path / "model", embedder_tensors(seed=3), "RealmEmbedder")
    tokenizer = (alone / "tokenizer.json").read_text()
    (alone / "tokenizer.json").write_text(
        tokenizer.replace('"lowercase":true', '"lowercase":false').replace('"lowercase": true', '"lowercase": false')
    )
    before = current_encoder(store)
    with pytest.raises(EncoderError, match="expected tokenizer"):
        run_convert(convert_config(store.url, alone))
    assert current_encoder(store) == before
