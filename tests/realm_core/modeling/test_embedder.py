from __future__ import annotations

import pytest
import torch
from support.tiny_encoders import BERT_KINDS, realm_config, write_bert
from transformers import BertForMaskedLM, BertModel

from realm_core.modeling.embedder import RealmEmbedder

HEAD = {
    "cls.predictions.bias",
    "cls.predictions.transform.dense.weight",
    "cls.predictions.transform.dense.bias",
    "cls.predictions.transform.LayerNorm.weight",
    "cls.predictions.transform.LayerNorm.bias",
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
}
PROJECTION = {"cls.dense.weight", "cls.dense.bias", "cls.LayerNorm.weight", "cls.LayerNorm.bias"}
IDS = torch.tensor([[2, 5, 6, 7, 3, 0], [2, 9, 10, 11, 12, 3]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]])


def test_state_dict_has_the_published_names():
    names = set(RealmEmbedder(realm_config()).state_dict())
    assert {name for name in names if name.startswith("cls.")} == HEAD | PROJECTION
    assert "realm.encoder.layer.2.attention.self.query.weight" in names
    assert "realm.pooler.dense.weight" in names


def test_embeds_the_projected_pooled_cls_state():
    embedder = RealmEmbedder(realm_config()).eval()
    pooled = embedder.realm(IDS, MASK).pooler_output
    dense = pooled @ embedder.cls.dense.weight.T + embedder.cls.dense.bias
    centred = dense - dense.mean(1, keepdim=True)
    expected = centred / (centred.pow(2).mean(1, keepdim=True) + 1e-12).sqrt()
    actual = embedder(IDS, MASK).projected_score
    assert actual.shape == (2, 8)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_asking_for_hidden_states_changes_no_embedding():
    embedder = RealmEmbedder(realm_config()).eval()
    output = embedder(IDS, MASK, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(output.projected_score, embedder(IDS, MASK).projected_score, rtol=1e-5, atol=1e-6)
    assert (len(output.hidden_states), len(output.attentions)) == (4, 3)
    assert torch.equal(embedder(IDS, MASK, return_dict=False)[0], embedder(IDS, MASK).projected_score)


def test_the_unread_head_is_frozen_and_everything_else_gets_a_gradient(tmp_path):
    embedder = RealmEmbedder(realm_config())
    embedder.save_pretrained(tmp_path)
    for model in (embedder, RealmEmbedder.from_pretrained(tmp_path)):
        model.eval()
        model(IDS, MASK).projected_score.pow(3).sum().backward()
        without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
        assert without == HEAD - {"cls.predictions.decoder.bias"}
        assert all(not parameter.requires_grad for name, parameter in model.named_parameters() if name in without)


def test_saving_and_loading_is_exact_and_silent(tmp_path, caplog):
    embedder = RealmEmbedder(realm_config()).eval()
    embedder.save_pretrained(tmp_path)
    loaded, info = RealmEmbedder.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert not caplog.records
    assert torch.equal(loaded(IDS, MASK).projected_score, embedder(IDS, MASK).projected_score)
    assert loaded.cls.predictions.decoder.bias is loaded.cls.predictions.bias


@pytest.mark.parametrize("kind", BERT_KINDS)
def test_from_bert_has_the_encoder_of_the_checkpoint(tmp_path, kind):
    reference = write_bert(tmp_path, kind)
    embedder = RealmEmbedder.from_bert(tmp_path, retriever_proj_size=8)
    encoder = getattr(reference, "bert", reference)
    expected = torch.tanh(encoder(IDS, MASK).last_hidden_state[:, 0])
    torch.testing.assert_close(embedder.realm(IDS, MASK).pooler_output, expected, rtol=1e-5, atol=1e-5)
    assert embedder(IDS, MASK).projected_score.shape == (2, 8)
    assert (embedder.config.hidden_act, embedder.config.pad_token_id) == ("gelu", 0)
    assert not embedder.training


def test_from_bert_depends_on_its_seed_alone(tmp_path):
    write_bert(tmp_path)
    torch.manual_seed(1)
    first = RealmEmbedder.from_bert(tmp_path, seed=3)
    torch.manual_seed(2)
    again, other = RealmEmbedder.from_bert(tmp_path, seed=3), RealmEmbedder.from_bert(tmp_path, seed=4)
    assert all(torch.equal(first.state_dict()[name], tensor) for name, tensor in again.state_dict().items())
    differing = {n for n, t in other.state_dict().items() if not torch.equal(first.state_dict()[n], t)}
    assert differing == {"cls.dense.weight", "cls.predictions.transform.dense.weight"}


def test_from_bert_takes_the_pooler_it_is_told_to(tmp_path):
    reference = write_bert(tmp_path)
    own = RealmEmbedder.from_bert(tmp_path, pooler="checkpoint").realm.pooler.dense
    assert torch.equal(own.weight, reference.pooler.dense.weight)
    identity = RealmEmbedder.from_bert(tmp_path, pooler="identity").realm.pooler.dense
    assert torch.equal(identity.weight, torch.eye(16))
    assert identity.bias.abs().max() == 0


def test_from_bert_without_a_pooler_has_the_identity(tmp_path):
    write_bert(tmp_path, BertModel, add_pooling_layer=False)
    embedder = RealmEmbedder.from_bert(tmp_path, pooler="checkpoint")
    assert torch.equal(embedder.realm.pooler.dense.weight, torch.eye(16))


def test_from_bert_keeps_a_masked_language_model(tmp_path):
    reference = write_bert(tmp_path, BertForMaskedLM)
    head = RealmEmbedder.from_bert(tmp_path).cls.predictions
    assert torch.equal(head.transform.dense.weight, reference.cls.predictions.transform.dense.weight)
    assert torch.equal(head.decoder.weight, reference.bert.embeddings.word_embeddings.weight)


def test_from_bert_takes_overrides_of_the_configuration(tmp_path):
    write_bert(tmp_path)
    config = RealmEmbedder.from_bert(tmp_path, hidden_dropout_prob=0.0, attn_implementation="eager").config
    assert config.hidden_dropout_prob == 0.0
    assert config._attn_implementation == "eager"
