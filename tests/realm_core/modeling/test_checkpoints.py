from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_encoders import VOCAB_SIZE, realm_config, write_bert, write_vocabulary
from transformers import BertForMaskedLM

from realm_core.errors import EncoderError
from realm_core.modeling.checkpoints import load_encoder, load_tokenizer, save_encoder
from realm_core.modeling.digests import tokenizer_digest
from realm_core.modeling.embedder import RealmEmbedder
from realm_core.modeling.knowledge_aug_encoder import RealmKnowledgeAugEncoder
from realm_core.modeling.scorer import RealmScorer

IDS = torch.tensor([[2, 5, 6, 7, 3]])


@pytest.fixture
def saved(tmp_path):
    """A saved embedder and its directory."""
    write_vocabulary(tmp_path)
    embedder = RealmEmbedder(realm_config()).eval()
    save_encoder(embedder, load_tokenizer(tmp_path), tmp_path / "encoder")
    return embedder, tmp_path / "encoder"


def test_save_and_load_give_the_same_embeddings_and_tokens(saved):
    embedder, directory = saved
    assert {file.name for file in directory.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "vocab.txt",
    }
    loaded = load_encoder(directory)
    state = loaded.embedder.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in embedder.state_dict().items())
    assert torch.equal(loaded.embedder(IDS).projected_score, embedder(IDS).projected_score)
    assert loaded.tokenizer.encode("The cats").ids == [2, 5, 6, 8, 3]
    assert loaded.config.retriever_proj_size == 8
    assert (loaded.token_id("[CLS]"), loaded.token_id("[SEP]"), loaded.token_id("[MASK]")) == (2, 3, 4)
    assert not loaded.embedder.training


def test_what_is_saved_is_what_transformers_loads(saved):
    embedder, directory = saved
    loaded, info = RealmEmbedder.from_pretrained(directory, output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(loaded(IDS).projected_score, embedder(IDS).projected_score)
    assert json.loads((directory / "config.json").read_text())["architectures"] == ["RealmEmbedder"]


def test_training_mode_and_frozen_heads_survive_the_round_trip(saved):
    _, directory = saved
    frozen = {name for name, p in load_encoder(directory).embedder.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in RealmEmbedder(realm_config()).named_parameters() if n.startswith("cls.predictions")}


def test_either_tokenizer_file_gives_the_same_tokenizer(saved):
    _, directory = saved
    expected = tokenizer_digest(load_tokenizer(directory))
    (directory / "tokenizer.json").unlink()
    assert tokenizer_digest(load_tokenizer(directory)) == expected


def test_a_cased_vocabulary_is_read_with_its_settings(tmp_path):
    write_vocabulary(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert load_tokenizer(tmp_path).encode("The cat").ids == [2, 1, 6, 3]


def test_truncation_and_padding_of_a_tokenizer_json_are_off(saved):
    embedder, directory = saved
    tokenizer = load_tokenizer(directory)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(directory / "tokenizer.json"))
    assert load_tokenizer(directory).encode("the cats sat on a mat").ids == [2, 5, 6, 8, 7, 9, 10, 11, 3]
    save_encoder(embedder, tokenizer, directory)
    assert json.loads((directory / "tokenizer.json").read_text())["truncation"] is None


def test_a_bert_checkpoint_becomes_an_embedder_of_the_given_seed(tmp_path):
    write_bert(tmp_path, BertForMaskedLM)
    loaded = load_encoder(tmp_path, seed=5)
    expected = RealmEmbedder.from_bert(tmp_path, seed=5)
    assert torch.equal(loaded.embedder(IDS).projected_score, expected(IDS).projected_score)
    assert not torch.equal(load_encoder(tmp_path, seed=6).embedder(IDS).projected_score, expected(IDS).projected_score)


def test_a_scorer_with_a_query_embedder_gives_both_exactly(tmp_path):
    scorer = RealmScorer(realm_config(), query_embedder=RealmEmbedder(realm_config())).eval()
    scorer.save_pretrained(tmp_path / "scorer")
    write_vocabulary(tmp_path / "scorer")
    loaded = load_encoder(tmp_path / "scorer")
    assert torch.equal(loaded.embedder(IDS).projected_score, scorer.embedder(IDS).projected_score)
    assert torch.equal(loaded.query_embedder(IDS).projected_score, scorer.query_embedder(IDS).projected_score)
    save_encoder(loaded.embedder, loaded.tokenizer, tmp_path / "again", query_embedder=loaded.query_embedder)
    again = load_encoder(tmp_path / "again")
    assert again.digest == loaded.digest
    assert torch.equal(again.query_embedder(IDS).projected_score, scorer.query_embedder(IDS).projected_score)
    empty = RealmEmbedder(realm_config())
    _, info = RealmScorer.from_pretrained(tmp_path / "again", query_embedder=empty, output_loading_info=True)
    assert not any(info.values()), info
    for name, tensor in scorer.query_embedder.state_dict().items():
        assert torch.equal(empty.state_dict()[name], tensor), name


def test_a_shared_embedder_that_is_written_under_both_names_is_one(tmp_path):
    embedder = RealmEmbedder(realm_config()).eval()
    embedder.config.save_pretrained(tmp_path)
    names = ("embedder", "query_embedder")
    torch.save({f"{n}.{k}": t for n in names for k, t in embedder.state_dict().items()}, tmp_path / "pytorch_model.bin")
    write_vocabulary(tmp_path)
    assert load_encoder(tmp_path).query_embedder is None


def test_a_scorer_gives_its_embedder(tmp_path):
    scorer = RealmScorer(realm_config()).eval()
    scorer.save_pretrained(tmp_path)
    write_vocabulary(tmp_path)
    assert torch.equal(load_encoder(tmp_path).embedder(IDS).projected_score, scorer.embedder(IDS).projected_score)


def test_a_knowledge_augmented_encoder_is_no_embedder(tmp_path):
    RealmKnowledgeAugEncoder(realm_config()).save_pretrained(tmp_path)
    write_vocabulary(tmp_path)
    with pytest.raises(EncoderError, match=r"no tensor cls\.dense\.weight"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("model_type", ["gpt2", "t5", "roberta"])
def test_another_architecture_is_refused(saved, model_type):
    _, directory = saved
    (directory / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(EncoderError, match=f"model_type '{model_type}'"):
        load_encoder(directory)


def test_a_lost_tensor_is_never_replaced_by_a_random_one(saved):
    _, directory = saved
    tensors = load_file(directory / "model.safetensors")
    del tensors["cls.dense.weight"]
    tensors["realm.pooler.dense.weight"] = torch.zeros(16, 17)
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(EncoderError) as caught:
        load_encoder(directory)
    assert caught.value.found == (
        "no tensor cls.dense.weight; realm.pooler.dense.weight of shape [16, 17] instead of [16, 16]"
    )


def test_a_configuration_that_cannot_work_is_refused(saved):
    _, directory = saved
    fields = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(fields | {"num_attention_heads": 5}))
    with pytest.raises(EncoderError, match="no multiple of 5 heads"):
        load_encoder(directory)


def test_a_missing_tokenizer_is_refused(saved):
    _, directory = saved
    (directory / "tokenizer.json").unlink()
    (directory / "vocab.txt").unlink()
    with pytest.raises(EncoderError, match=r"no tokenizer; expected tokenizer\.json or vocab\.txt"):
        load_encoder(directory)


def test_a_broken_tokenizer_json_is_refused(saved):
    _, directory = saved
    (directory / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(EncoderError, match=r"tokenizer\.json that cannot be read"):
        load_encoder(directory)


def test_a_vocabulary_without_special_tokens_is_refused(saved):
    _, directory = saved
    (directory / "tokenizer.json").unlink()
    (directory / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\n")
    with pytest.raises(EncoderError, match=r"a tokenizer without \[MASK\]"):
        load_encoder(directory)


def test_a_tokenizer_with_more_tokens_than_the_word_embedding_is_refused(saved):
    _, directory = saved
    (directory / "tokenizer.json").unlink()
    with (directory / "vocab.txt").open("a") as file:
        file.write("one\ntoo\nmany\n")
    with pytest.raises(EncoderError, match=f"token ids up to {VOCAB_SIZE + 2} with a vocabulary of {VOCAB_SIZE}"):
        load_encoder(directory)


def test_a_token_that_is_not_there_is_an_error(saved):
    _, directory = saved
    with pytest.raises(EncoderError, match=r"without \[X\]"):
        load_encoder(directory).token_id("[X]")
