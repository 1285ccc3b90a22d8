from __future__ import annotations

import json
import shutil

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_encoders import write_bert

from realm_core.errors import EncoderError
from realm_core.modeling.weights import read_config, read_tensors, resolve_directory


@pytest.fixture
def directory(tmp_path):
    write_bert(tmp_path)
    return tmp_path


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_bin_file_gives_the_same_tensors_as_safetensors(directory):
    expected = read_tensors(directory)
    torch.save(expected, directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    assert same(read_tensors(directory), expected)


def test_shards_give_the_same_tensors_as_one_file(directory):
    expected = read_tensors(directory)
    names = sorted(expected)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, members in shards.items():
        save_file({name: expected[name] for name in members}, directory / shard)
    weight_map = {name: shard for shard, members in shards.items() for name in members}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (directory / "model.safetensors").unlink()
    assert same(read_tensors(directory), expected)
    (directory / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(EncoderError, match="model-00002-of-00002"):
        read_tensors(directory)


def test_code_in_a_bin_file_never_runs(directory):
    class Harmful:
        def __reduce__(self):
            return (open, (str(directory / "was-run"), "w"))

    (directory / "model.safetensors").unlink()
    torch.save({"embeddings.word_embeddings.weight": Harmful()}, directory / "pytorch_model.bin")
    with pytest.raises(EncoderError, match="cannot be read as weights"):
        read_tensors(directory)
    assert not (directory / "was-run").exists()


@pytest.mark.parametrize("keep_bytes", [0, 5, 100, -8])
def test_a_truncated_safetensors_file_is_named_with_its_size(directory, keep_bytes):
    file = directory / "model.safetensors"
    content = file.read_bytes()[:keep_bytes]
    file.write_bytes(content)
    with pytest.raises(EncoderError, match=f"model.safetensors: {len(content)} bytes that cannot be read") as caught:
        read_tensors(directory)
    assert "truncated" in caught.value.action
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep_bytes", [0, 5, 1000])
def test_a_truncated_bin_file_is_refused(directory, keep_bytes):
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    whole = (directory / "pytorch_model.bin").read_bytes()
    (directory / "pytorch_model.bin").write_bytes(whole[:keep_bytes])
    with pytest.raises(EncoderError, match="cannot be read as weights"):
        read_tensors(directory)


def test_a_directory_without_weights_says_so(directory):
    (directory / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match=r"no weights; expected model\.safetensors or pytorch_model\.bin"):
        read_tensors(directory)


@pytest.mark.parametrize(("content", "found"), [(None, "no config.json"), ("{", "no JSON"), ("[1]", "holds a list")])
def test_a_configuration_that_cannot_be_read_is_refused(directory, content, found):
    (directory / "config.json").unlink()
    if content is not None:
        (directory / "config.json").write_text(content)
    with pytest.raises(EncoderError, match=found):
        read_config(directory)


def test_a_missing_directory_and_a_file_are_refused_without_asking_the_hub(directory):
    with pytest.raises(EncoderError, match="no such directory"):
        resolve_directory(directory / "nowhere")
    with pytest.raises(EncoderError, match="a file; expected a directory"):
        resolve_directory(directory / "config.json")


@pytest.fixture
def offline_hub(tmp_path, monkeypatch):
    """A hub cache on disk, as huggingface_hub lays it out, and no network."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub._snapshot_download.constants, "HF_HUB_CACHE", str(cache))
    return cache


def test_a_cached_hub_model_is_found(offline_hub, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    write_bert(model)
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = offline_hub / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(model, repository / "snapshots" / commit)
    assert same(read_tensors(resolve_directory("someone/tiny")), read_tensors(model))


def test_a_hub_model_that_cannot_be_had_says_what_to_check(offline_hub):
    with pytest.raises(EncoderError, match="neither a local directory nor a hub model") as caught:
        resolve_directory("someone/absent")
    assert "spelling and the network" in caught.value.action
