from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from support.published import DIMENSION, POSITIONS, embedder_tensors, texts, write_model, write_open_qa

from realm_core.conversion import published_model
from realm_core.conversion.published_model import (
    BlockEmbeddings,
    open_published_model,
    parts_of_records,
    published_precision,
)
from realm_core.errors import EncoderError
from realm_core.modeling.weights import read_tensors

NUM_RECORDS = 50


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_open_qa(tmp_path_factory.mktemp("published") / "model", texts(NUM_RECORDS))


def write_rows(directory, rows):
    directory.mkdir(exist_ok=True)
    save_file({"block_emb": rows}, directory / "model.safetensors")
    return BlockEmbeddings(directory)


def test_an_open_qa_model_has_everything(directory):
    model = open_published_model(str(directory), with_block_records=True)
    assert model.has_embedder
    assert model.has_reader
    assert model.has_block_embeddings
    assert model.block_records_file == directory / "block_records.npy"
    assert (model.architecture, model.max_block_tokens, model.dimension) == ("RealmForOpenQA", POSITIONS, DIMENSION)


@pytest.mark.parametrize(
    ("architecture", "prefix", "without", "has_embedder"),
    [
        ("RealmEmbedder", "", "nothing", True),
        ("RealmScorer", "embedder.", "nothing", True),
        ("RealmKnowledgeAugEncoder", "", "cls.dense", False),
        ("RealmReader", "", "cls.", False),
    ],
)
def test_other_models_have_less(tmp_path, architecture, prefix, without, has_embedder):
    tensors = {f"{prefix}{name}": t for name, t in embedder_tensors().items() if not name.startswith(without)}
    model = open_published_model(str(write_model(tmp_path, tensors, architecture)), with_block_records=True)
    assert model.has_embedder == has_embedder
    assert not model.has_reader
    assert not model.has_block_embeddings
    assert model.block_records_file is None


def test_reader_tensors_are_all_but_the_block_embeddings_and_share_no_memory(directory):
    tensors = open_published_model(str(directory), with_block_records=False).reader_tensors()
    source = read_tensors(directory)
    assert tensors.keys() == source.keys() - {"block_emb"}
    assert all(torch.equal(tensors[name], source[name]) for name in tensors)
    assert len({tensor.data_ptr() for tensor in tensors.values()}) == len(tensors)
    assert len({tensor.data_ptr() for tensor in source.values()}) < len(source)


def test_rows_are_those_of_the_file_however_often_it_is_mapped_anew(directory, monkeypatch):
    whole = read_tensors(directory)["block_emb"].numpy()
    for limit in (0, 100, 1 << 20):
        monkeypatch.setattr(published_model, "MAX_MAPPED_BYTES", limit)
        embeddings = BlockEmbeddings(directory)
        rows = np.concatenate([embeddings.rows(start, min(start + 7, 50)) for start in range(0, 50, 7)])
        assert np.array_equal(rows, whole)


@pytest.mark.parametrize("rows_per_check", [3, 50, 1000])
def test_the_digest_is_that_of_all_bytes(directory, monkeypatch, rows_per_check):
    monkeypatch.setattr(published_model, "ROWS_PER_CHECK", rows_per_check)
    seen = []
    found = BlockEmbeddings(directory).check(num_records=NUM_RECORDS, dimension=DIMENSION, progress=seen.append)
    assert found == hashlib.sha256(read_tensors(directory)["block_emb"].numpy().tobytes()).hexdigest()
    assert seen[-1] == NUM_RECORDS
    assert published_precision(found) == f"published-{found[:12]}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_points_are_read_as_float32(tmp_path, dtype):
    rows = torch.randn(5, 4).to(dtype)
    embeddings = write_rows(tmp_path, rows)
    assert embeddings.rows(0, 5).dtype == np.float32
    assert np.array_equal(embeddings.rows(0, 5), rows.float().numpy())
    sha256 = hashlib.sha256(rows.view(torch.uint8).numpy().tobytes()).hexdigest()
    assert embeddings.check(num_records=5, dimension=4) == sha256


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (torch.ones(4, 4), "4 rows; expected 5, as many as there are block records"),
        (torch.ones(5, 3), r"shape \[5, 3\]; expected .*\[blocks, 4\]"),
        (torch.ones(20), r"shape \[20\]"),
        (torch.ones(()), r"shape \[\]"),
        (torch.ones(5, 4, dtype=torch.int32), "torch.int32"),
        (torch.ones(5, 4).index_fill(0, torch.tensor([4]), float("nan")), "NaN or infinity in row 4"),
        (torch.ones(5, 4).index_fill(0, torch.tensor([2]), -float("inf")), "NaN or infinity in row 2"),
        (torch.ones(5, 4).index_fill(0, torch.tensor([3]), 0), "all zeros in row 3"),
    ],
)
def test_unfit_rows_are_named(tmp_path, monkeypatch, rows, found):
    monkeypatch.setattr(published_model, "ROWS_PER_CHECK", 2)
    with pytest.raises(EncoderError, match=found) as caught:
        write_rows(tmp_path, rows).check(num_records=5, dimension=4)
    assert "block_emb" in caught.value.where


@given(sizes=st.lists(st.integers(1, 9), max_size=9), rows_per_part=st.integers(1, 12))
def test_parts_hold_the_same_records_in_their_order(sizes, rows_per_part):
    records = [b"%d" % number for number in range(sum(sizes))]
    remaining = iter(records)
    batches = ([next(remaining) for _ in range(size)] for size in sizes)
    parts = list(parts_of_records(batches, rows_per_part))
    assert [record for part in parts for record in part] == records
    assert all(len(part) == rows_per_part for part in parts[:-1])
    assert all(0 < len(part) <= rows_per_part for part in parts[-1:])
