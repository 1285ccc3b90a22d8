from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_encoders import write_bert

from realm_core.errors import EncoderError
from realm_core.modeling.configuration import RealmConfig
from realm_core.modeling.embedder import RealmEmbedder
from realm_core.modeling.open_qa import RealmForOpenQA
from realm_core.modeling.weights import read_config, read_tensor, read_tensors, resolve_directory, tensor_names


@pytest.fixture
def directory(tmp_path):
    write_bert(tmp_path)
    return tmp_path


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def write_bin(directory, content, is_zip=True):
    (directory / "model.safetensors").unlink(missing_ok=True)
    torch.save(content, directory / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)


def write_shards(directory, tensors):
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, members in shards.items():
        save_file({name: tensors[name].clone() for name in members}, directory / shard)
    weight_map = {name: shard for shard, members in shards.items() for name in members}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (directory / "model.safetensors").unlink()


LAYOUTS = {
    "safetensors": lambda directory, tensors: None,
    "shards": write_shards,
    "zip": write_bin,
    "legacy": lambda directory, tensors: write_bin(directory, tensors, is_zip=False),
}


@pytest.fixture(params=list(LAYOUTS))
def layout(request, directory):
    """The directory and its tensors, in one of the layouts of a checkpoint."""
    tensors = {name: tensor.clone() for name, tensor in load_file(directory / "model.safetensors").items()}
    LAYOUTS[request.param](directory, tensors)
    return directory, tensors


def test_every_layout_gives_the_same_tensors(layout):
    directory, tensors = layout
    assert same(read_tensors(directory), tensors)


def test_every_layout_gives_one_tensor_by_its_name_and_the_names_of_all(layout):
    directory, tensors = layout
    assert sorted(tensor_names(directory)) == sorted(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(read_tensor(directory, name), tensor)
    assert read_tensor(directory, "block_emb") is None


def test_a_missing_shard_is_named(directory):
    write_shards(directory, load_file(directory / "model.safetensors"))
    (directory / "model-00002-of-00002.safetensors").unlink()
    for read in (read_tensors, tensor_names, lambda where: read_tensor(where, "block_emb")):
        with pytest.raises(EncoderError, match="model-00002-of-00002"):
            read(directory)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": [1]}'])
def test_an_index_that_is_none_is_refused(directory, index):
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(index)
    with pytest.raises(EncoderError, match="no index of shards"):
        read_tensors(directory)


MEASURE = """
import sys
from pathlib import Path
import psutil
from realm_core.modeling.weights import read_tensor, tensor_names
directories = [Path(argument) for argument in sys.argv[1:]]
for directory in directories:
    read_tensor(directory, "small")
before = psutil.Process().memory_info().rss
rows = [read_tensor(directory, "large")[7] for directory in directories]
assert all(tensor_names(directory) and row[0] == 1 for directory, row in zip(directories, rows))
print(psutil.Process().memory_info().rss - before)
"""


def test_one_row_of_a_large_tensor_is_read_without_the_rest(tmp_path):
    tensors = {"large": torch.ones(400_000, 128), "small": torch.ones(3)}
    directories = [tmp_path / "safetensors", tmp_path / "bin"]
    for folder in directories:
        folder.mkdir()
    save_file(tensors, directories[0] / "model.safetensors")
    write_bin(directories[1], tensors)
    measured = subprocess.run([sys.executable, "-c", MEASURE, *directories], capture_output=True, text=True)
    assert int(measured.stdout) < tensors["large"].nbytes / 4, measured.stderr


class Harmful:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self._call = (function, arguments)

    def __reduce__(self):
        return self._call


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    ("function", "argument", "name"), [(os.system, "touch {}", "posix.system"), (os.mkdir, "{}", "posix.mkdir")]
)
def test_code_in_a_bin_file_never_runs_and_is_named(directory, is_zip, function, argument, name):
    marker = directory / "was-run"
    harmful = Harmful(function, argument.format(marker))
    for content in (harmful, {"embeddings.word_embeddings.weight": harmful}):
        write_bin(directory, content, is_zip)
        for read in (read_tensors, tensor_names, lambda where: read_tensor(where, "x")):
            with pytest.raises(EncoderError, match=f"it asks for the function or class {name};") as caught:
                read(directory)
        assert "No code was run" in caught.value.action
        assert "pytorch_model.bin" in caught.value.where
    assert not marker.exists()
    torch.load(directory / "pytorch_model.bin", weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([torch.ones(1)], "a list;"),
        (torch.ones(1), "a Tensor;"),
        ({"weight": [1.0]}, "'weight' of the type list;"),
        ({"weight": {"weight": torch.ones(1)}}, "'weight' of the type dict;"),
        ({"weight": "words"}, "'weight' of the type str;"),
        ({1: torch.ones(1)}, "the key 1 of the type int;"),
        ({"weight": torch.ones(3).to_sparse()}, "'weight', a tensor that is torch.sparse_coo"),
        ({"weight": torch.ones(3, device="meta")}, "'weight', a tensor that is torch.strided on meta"),
        (torch.nn.Linear(2, 2), "the function or class torch.nn.modules.linear.Linear;"),
    ],
)
def test_a_bin_file_of_something_else_than_dense_tensors_is_refused(directory, is_zip, content, found):
    write_bin(directory, content, is_zip)
    with pytest.raises(EncoderError, match=found) as caught:
        read_tensors(directory)
    assert "dense tensors by name" in caught.value.expected


def test_parameters_are_read_as_tensors(directory):
    write_bin(directory, {"weight": torch.nn.Parameter(torch.ones(2))})
    assert not read_tensors(directory)["weight"].requires_grad


@pytest.mark.parametrize("keep_bytes", [0, 5, 100, -8])
def test_a_truncated_safetensors_file_is_named_with_its_size(directory, keep_bytes):
    file = directory / "model.safetensors"
    content = file.read_bytes()[:keep_bytes]
    file.write_bytes(content)
    with pytest.raises(EncoderError, match=f"model.safetensors: {len(content)} bytes that cannot be read") as caught:
        read_tensors(directory)
    assert "truncated" in caught.value.action
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("keep_bytes", [0, 5, 1000, -100])
def test_a_truncated_bin_file_is_refused(directory, is_zip, keep_bytes):
    write_bin(directory, load_file(directory / "model.safetensors"), is_zip)
    file = directory / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:keep_bytes])
    with pytest.raises(EncoderError, match="cannot be read as weights") as caught:
        read_tensors(directory)
    assert "\n" not in str(caught.value)


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


def test_a_cached_hub_model_is_found_with_its_block_records(offline_hub, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    write_bert(model)
    (model / "block_records.npy").write_bytes(b"records")
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = offline_hub / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(model, repository / "snapshots" / commit)
    assert same(read_tensors(resolve_directory("someone/tiny")), read_tensors(model))
    assert (resolve_directory("someone/tiny", with_block_records=True) / "block_records.npy").exists()


def test_a_hub_model_that_cannot_be_had_says_what_to_check(offline_hub):
    with pytest.raises(EncoderError, match="neither a local directory nor a hub model") as caught:
        resolve_directory("someone/absent")
    assert "spelling and the network" in caught.value.action


@pytest.mark.parametrize("is_zip", [True, False])
def test_from_pretrained_runs_no_code_either(directory, is_zip):
    RealmConfig(vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=1).save_pretrained(directory)
    marker = directory / "was-run"
    write_bin(directory, {"realm.embeddings.LayerNorm.bias": Harmful(os.system, f"touch {marker}")}, is_zip)
    for kind in (RealmEmbedder, RealmForOpenQA):
        with pytest.raises(EncoderError, match=r"it asks for the function or class posix\.system"):
            kind.from_pretrained(directory)
        with pytest.raises(EncoderError, match="weights_only=False"):
            kind.from_pretrained(directory, weights_only=False)
    assert not marker.exists()


@pytest.mark.parametrize("content", [[torch.ones(1)], {"x": "text"}, {"x": {"y": torch.ones(1)}}])
def test_from_pretrained_refuses_what_is_no_tensor_by_name(directory, content):
    RealmConfig(vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=1).save_pretrained(directory)
    write_bin(directory, content)
    with pytest.raises(EncoderError, match="dense tensors by name"):
        RealmEmbedder.from_pretrained(directory)


@pytest.mark.parametrize("data", [b"", b"junk that is no checkpoint", b"PK\x03\x04 and no archive"])
def test_no_error_advises_to_unpickle_the_file(directory, data):
    (directory / "model.safetensors").unlink(missing_ok=True)
    (directory / "pytorch_model.bin").write_bytes(data)
    with pytest.raises(EncoderError, match="cannot be read as weights") as caught:
        read_tensors(directory)
    assert "weights_only" not in str(caught.value)


def test_a_compressed_archive_is_refused_before_it_is_unpacked(directory):
    write_bin(directory, {"x": torch.zeros(100_000)})
    with zipfile.ZipFile(directory / "pytorch_model.bin") as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(directory / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in members.items():
            target.writestr(name, data)
    with pytest.raises(EncoderError, match="a compressed archive of"):
        read_tensors(directory)
