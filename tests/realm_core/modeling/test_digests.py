from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_encoders import realm_config, write_vocabulary
from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer

from realm_core.modeling.checkpoints import load_encoder, save_encoder
from realm_core.modeling.digests import encoder_digest, tokenizer_digest
from realm_core.modeling.embedder import RealmEmbedder
from realm_core.modeling.tokenization import RealmTokenizer


def embedder(**overrides):
    torch.manual_seed(0)
    return RealmEmbedder(realm_config(**overrides)).eval()


@pytest.fixture
def tokenizer(tmp_path):
    write_vocabulary(tmp_path)
    return RealmTokenizer(vocab_file=tmp_path / "vocab.txt").backend_tokenizer


def test_the_digest_is_64_hexadecimal_digits_and_repeats():
    assert len(encoder_digest(embedder())) == 64
    assert encoder_digest(embedder()) == encoder_digest(embedder())


def test_files_with_tensors_in_another_order_have_the_same_digest(tmp_path, tokenizer):
    save_encoder(embedder(), tokenizer, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(dict(reversed(tensors.items())), tmp_path / "model.safetensors", metadata={"other": "layout"})
    assert encoder_digest(load_encoder(tmp_path).embedder) == encoder_digest(embedder())


def test_one_changed_bit_of_any_tensor_that_is_read_changes_the_digest():
    expected = encoder_digest(embedder())
    for name in embedder().state_dict():
        changed = embedder()
        with torch.no_grad():
            changed.state_dict()[name].view(-1)[0] += 1.0
        assert (encoder_digest(changed) == expected) == name.startswith("cls.predictions."), name


@pytest.mark.parametrize("field", [{"hidden_act": "relu"}, {"layer_norm_eps": 1e-5}, {"num_attention_heads": 4}])
def test_fields_that_change_outputs_change_the_digest(field):
    assert encoder_digest(embedder(**field)) != encoder_digest(embedder())


@pytest.mark.parametrize(
    "field", [{"hidden_dropout_prob": 0.5}, {"num_block_records": 7}, {"attn_implementation": "eager"}]
)
def test_fields_that_change_no_output_leave_the_digest(field):
    assert encoder_digest(embedder(**field)) == encoder_digest(embedder())


def test_half_precision_weights_are_another_encoder():
    assert encoder_digest(embedder().to(torch.bfloat16)) != encoder_digest(embedder())


def test_the_tokenizers_digest_sees_words_and_case_but_not_padding(tokenizer):
    expected = tokenizer_digest(tokenizer)
    padded = Tokenizer.from_str(tokenizer.to_str())
    padded.enable_truncation(4)
    padded.enable_padding(length=8)
    assert tokenizer_digest(padded) == expected
    cased = Tokenizer.from_str(tokenizer.to_str())
    cased.normalizer = BertNormalizer(lowercase=False)
    assert tokenizer_digest(cased) != expected
    swapped = tokenizer.to_str().replace('"cat"', '"dog"')
    assert tokenizer_digest(Tokenizer.from_str(swapped)) != expected


def test_a_query_embedder_of_its_own_makes_another_encoder():
    shared, pair = encoder_digest(embedder()), encoder_digest(embedder(), embedder())
    changed = embedder()
    with torch.no_grad():
        changed.cls.dense.weight.add_(1.0)
    assert len({shared, pair, encoder_digest(embedder(), changed), encoder_digest(changed, embedder())}) == 4
