"""A directory written by transformers 4.40.2 loads whole: every tensor has a place and every place has a tensor."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from golden.blocks import block_embeddings, block_records
from golden.comparison import assert_outputs, case_names, json_of
from golden.configurations import CONFIGURATIONS, VOCABULARY, WEIGHT_STD
from golden.frozen import weight
from golden.models import CLASSES, make_cases, make_config, run
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

import realm_core

FORMATS = ["pytorch_model.bin", "model.safetensors"]
PROBLEMS = ["missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"]
WORDS = "embeddings.word_embeddings.weight"


def own_name(kind, name):
    """The name that a tied tensor has its values from."""
    if kind == "scorer":
        return name.replace("query_embedder.", "embedder.")
    return f"realm.{WORDS}" if (kind, name) == ("knowledge_aug_encoder", "cls.predictions.decoder.weight") else name


def stored_tensors(kind, file_name):
    """Where 4.40.2 refuses to write safetensors, the names are those of the hub's converter, which drops copies."""
    published = json_of("checkpoints")[kind]
    entries = published[file_name] or [e for e in published["pytorch_model.bin"] if not _is_copy(kind, e)]
    found = {}
    for name, _, shape in (entry.split() for entry in entries):
        size = tuple(map(int, shape.split("x")))
        is_blocks = name == "block_emb"
        found[name] = block_embeddings(size[1]) if is_blocks else weight(own_name(kind, name), size, WEIGHT_STD["tiny"])
    return found


def _is_copy(kind, entry):
    return "predictions.decoder.bias" in entry or (kind == "scorer" and entry.startswith("query_embedder."))


@lru_cache
def arguments(kind):
    if kind == "two_embedder_scorer":
        return {"query_embedder": realm_core.RealmEmbedder(make_config(realm_core, "tiny"))}
    if kind == "open_qa":
        tokenizer = realm_core.RealmTokenizerFast(str(VOCABULARY))
        return {"retriever": realm_core.RealmRetriever(block_records(), tokenizer)}
    return {}


def write(folder, kind, file_name, tensors):
    (folder / "config.json").write_text(json_of("checkpoints")[kind]["config.json"])
    if file_name == "model.safetensors":
        save_file(tensors, folder / file_name, metadata={"format": "pt"})
    else:
        torch.save({name: torch.from_numpy(values) for name, values in tensors.items()}, folder / file_name)


def assert_loads_whole(folder, kind):
    loaded = getattr(realm_core, CLASSES[kind]).from_pretrained(folder, output_loading_info=True, **arguments(kind))
    model, info = loaded
    assert {problem: list(info[problem]) for problem in PROBLEMS} == {problem: [] for problem in PROBLEMS}
    case = next(case for name, case in case_names(kind) if name == "tiny")
    assert_outputs(run(model, make_cases(kind, "tiny", realm_core)[case]), "tiny", kind, case)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("file_name", FORMATS)
def test_parity_of_a_checkpoint(tmp_path, kind, file_name):
    write(tmp_path, kind, file_name, stored_tensors(kind, file_name))
    assert_loads_whole(tmp_path, kind)


@pytest.mark.parametrize("kind", CLASSES)
def test_parity_of_a_checkpoint_with_the_buffers_of_older_releases(tmp_path, kind):
    tensors = stored_tensors(kind, "pytorch_model.bin")
    positions = np.arange(CONFIGURATIONS["tiny"]["max_position_embeddings"])[None]
    buffers = {name.replace(WORDS, "embeddings.position_ids"): positions for name in tensors if name.endswith(WORDS)}
    write(tmp_path, kind, "pytorch_model.bin", tensors | buffers)
    assert_loads_whole(tmp_path, kind)


def test_parity_of_a_scorer_checkpoint_loaded_with_one_embedder(tmp_path):
    """As in 4.40.2, whose shared embedder has two names: the embedder of the blocks is read."""
    write(tmp_path, "scorer", "pytorch_model.bin", stored_tensors("scorer", "pytorch_model.bin"))
    assert_loads_whole(tmp_path, "scorer")


@pytest.mark.parametrize("kind", CLASSES)
def test_parity_of_state_dict_names(models, kind):
    published = {entry.split()[0] for entry in json_of("checkpoints")[kind]["pytorch_model.bin"]}
    if kind == "scorer":
        published = {name for name in published if not name.startswith("query_embedder.")}
    assert set(models(realm_core, kind, "tiny").state_dict()) == published - {"block_emb"}


@pytest.mark.parametrize(("which", "tokenizer"), [("slow", "RealmTokenizer"), ("fast", "RealmTokenizerFast")])
def test_parity_of_a_directory_that_auto_classes_resolve(tmp_path, which, tokenizer):
    write(tmp_path, "embedder", "model.safetensors", stored_tensors("embedder", "model.safetensors"))
    for file_name, content in json_of("tokenizer_files")[which].items():
        (tmp_path / file_name).write_text(content)
    (tmp_path / "vocab.txt").write_bytes(VOCABULARY.read_bytes())
    assert isinstance(AutoConfig.from_pretrained(tmp_path), realm_core.RealmConfig)
    assert isinstance(AutoModel.from_pretrained(tmp_path), realm_core.RealmBertModel)
    found = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(found, getattr(realm_core, tokenizer))
    expected = json_of(f"tokenizer_{which}")["texts, default"]["accents"]["ids"]
    assert found("Café naïve résumé ÅÉÎ Zürich MÜNCHEN")["input_ids"] == expected
