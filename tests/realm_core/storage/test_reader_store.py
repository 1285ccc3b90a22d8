import json

import pytest
import torch
from safetensors.torch import load_file

from realm_core.errors import ArtifactMissingError, EncoderError
from realm_core.storage.files import Store
from realm_core.storage.reader_store import (
    ReaderVersion,
    current_reader,
    has_current_reader,
    has_reader,
    put_reader,
    reader_folder,
    set_current_reader,
)

TENSORS = {"embedder.cls.dense.weight": torch.ones(2, 3), "reader.qa_outputs.dense.bias": torch.zeros(4)}


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


@pytest.fixture
def model(tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "realm", "reader_beam_size": 5}))
    (directory / "vocab.txt").write_text("[PAD]\n")
    (directory / "README.md").write_text("no part of the reader")
    return directory


def test_a_reader_comes_back_with_its_configuration_and_tokenizer(store, model):
    digest, is_new = put_reader(store, model, TENSORS)
    assert is_new
    assert has_reader(store, digest)
    folder = reader_folder(store, digest)
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors", "vocab.txt"]
    assert (folder / "config.json").read_bytes() == (model / "config.json").read_bytes()
    kept = load_file(folder / "model.safetensors")
    assert kept.keys() == TENSORS.keys()
    assert all(torch.equal(kept[name], TENSORS[name]) for name in TENSORS)


def test_the_same_reader_is_kept_once_and_another_beside_it(store, model):
    digest, _ = put_reader(store, model, TENSORS)
    assert put_reader(store, model, dict(reversed(TENSORS.items()))) == (digest, False)
    other, is_new = put_reader(store, model, {**TENSORS, "reader.qa_outputs.dense.bias": torch.ones(4)})
    assert is_new
    (model / "config.json").write_text(json.dumps({"model_type": "realm", "reader_beam_size": 6}))
    assert len({digest, other, put_reader(store, model, TENSORS)[0]}) == 3


def test_the_pointer_names_reader_and_encoder(store):
    assert not has_current_reader(store)
    with pytest.raises(EncoderError, match=r"no reader.*realm convert"):
        current_reader(store)
    version = ReaderVersion(digest="a" * 64, encoder_digest="b" * 64)
    set_current_reader(store, version)
    assert current_reader(store) == version
    with pytest.raises(ArtifactMissingError, match="readers/aaaa"):
        reader_folder(store, version.digest)
