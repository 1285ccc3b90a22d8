from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_encoders import write_bert

from realm_core.errors import EncoderError
from realm_core.modeling.bert import read_bert
from realm_core.modeling.embedder import RealmEmbedder


def rewrite(directory, change):
    file = directory / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def test_names_of_2018_are_understood(tmp_path):
    write_bert(tmp_path)
    expected = RealmEmbedder.from_bert(tmp_path).state_dict()

    def old(tensors):
        names = {
            n: n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            for n in tensors
        }
        return {f"bert.{names[name]}": tensor for name, tensor in tensors.items()}

    rewrite(tmp_path, old)
    fields = json.loads((tmp_path / "config.json").read_text())
    del fields["model_type"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    actual = RealmEmbedder.from_bert(tmp_path).state_dict()
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())


def test_half_precision_checkpoints_become_fp32(tmp_path):
    write_bert(tmp_path)
    rewrite(tmp_path, lambda tensors: {name: tensor.half() for name, tensor in tensors.items()})
    assert {tensor.dtype for tensor in read_bert(tmp_path, {}).tensors.values()} == {torch.float32}


@pytest.mark.parametrize("model_type", ["gpt2", "t5", "roberta"])
def test_another_architecture_is_refused_by_name(tmp_path, model_type):
    write_bert(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(EncoderError, match=f"model_type '{model_type}'.*expected 'realm' or 'bert'"):
        read_bert(tmp_path, {})


def test_a_configuration_without_sizes_is_refused(tmp_path):
    write_bert(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert", "hidden_size": 16}')
    with pytest.raises(EncoderError, match="without vocab_size, num_hidden_layers"):
        read_bert(tmp_path, {})


def test_relative_positions_are_refused_instead_of_ignored(tmp_path):
    write_bert(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"position_embedding_type": "relative_key"}))
    with pytest.raises(EncoderError, match="relative_key"):
        read_bert(tmp_path, {})


def test_a_missing_tensor_is_named_and_never_invented(tmp_path):
    write_bert(tmp_path)
    lost = "encoder.layer.1.attention.self.key.weight"
    rewrite(tmp_path, lambda tensors: {name: tensor for name, tensor in tensors.items() if name != lost})
    with pytest.raises(EncoderError, match=f"no tensor realm.{lost}"):
        RealmEmbedder.from_bert(tmp_path)


def test_half_a_masked_language_model_is_refused(tmp_path):
    write_bert(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors | {"cls.predictions.bias": torch.zeros(40)})
    with pytest.raises(EncoderError, match=r"no tensor cls\.predictions\.transform"):
        RealmEmbedder.from_bert(tmp_path)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path):
    write_bert(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors | {"embeddings.word_embeddings.weight": torch.zeros(41, 16)})
    with pytest.raises(EncoderError, match=r"word_embeddings.weight of shape \[41, 16\] instead of \[40, 16\]"):
        RealmEmbedder.from_bert(tmp_path)


def test_more_layers_than_the_configuration_has_are_refused(tmp_path):
    write_bert(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"num_hidden_layers": 2}))
    with pytest.raises(EncoderError, match="beyond the 2 layers"):
        RealmEmbedder.from_bert(tmp_path)
