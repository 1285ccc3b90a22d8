from __future__ import annotations

import math

import pytest
import torch
from support.tiny_encoders import realm_config, write_bert
from transformers import BertForMaskedLM, BertModel

from realm_core.modeling.knowledge_aug_encoder import RealmKnowledgeAugEncoder, marginal_loss


def joint_inputs():
    torch.manual_seed(5)
    ids = torch.randint(5, 40, (2, 3, 9))
    mask = torch.ones_like(ids)
    mask[1, 2, 6:] = 0
    types = torch.zeros_like(ids)
    types[..., 5:] = 1
    return ids, mask, types


def test_the_vocabulary_projection_is_tied_to_the_word_embedding(tmp_path):
    model = RealmKnowledgeAugEncoder(realm_config())
    model.save_pretrained(tmp_path)
    loaded, info = RealmKnowledgeAugEncoder.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    for each in (model, loaded):
        assert each.get_output_embeddings().weight is each.get_input_embeddings().weight
        assert each.cls.predictions.decoder.bias is each.cls.predictions.bias


def test_masked_token_log_probs_equal_those_of_the_whole_logits():
    model = RealmKnowledgeAugEncoder(realm_config()).eval()
    ids, mask, types = joint_inputs()
    positions, targets = torch.tensor([[1, 4, 0], [2, 2, 3]]), torch.tensor([[7, 9, 0], [39, 5, 6]])
    actual = model.masked_token_log_probs(ids, mask, types, positions, targets)
    log_probs = model(ids, mask, types).logits.log_softmax(-1).view(2, 3, 9, 40)
    assert actual.shape == (2, 3, 3)
    for query in range(2):
        for candidate in range(3):
            for place in range(3):
                expected = log_probs[query, candidate, positions[query, place], targets[query, place]]
                torch.testing.assert_close(actual[query, candidate, place], expected, rtol=1e-4, atol=1e-5)


def test_every_parameter_that_is_not_frozen_gets_a_gradient():
    model = RealmKnowledgeAugEncoder(realm_config()).eval()
    places = torch.ones(2, 2, dtype=torch.long)
    model.masked_token_log_probs(*joint_inputs(), places, places).sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {"realm.pooler.dense.weight", "realm.pooler.dense.bias"}
    assert all(not p.requires_grad for name, p in model.named_parameters() if name in without)


def test_the_logits_of_l_tokens_are_never_made():
    model = RealmKnowledgeAugEncoder(realm_config()).eval()
    shapes = []
    model.cls.predictions.decoder.register_forward_hook(
        lambda module, inputs, output: shapes.append(tuple(output.shape))
    )
    places = torch.ones(2, 2, dtype=torch.long)
    model.masked_token_log_probs(*joint_inputs(), places, places)
    assert shapes == [(12, 40)]


def test_the_marginal_loss_is_the_one_computed_by_hand():
    half, ninth = math.log(0.5), math.log(1 / 9)
    logits = torch.tensor([[[half, half], [0.0, 0.0]], [[math.log(8 / 9), ninth], [0.0, 0.0]]])
    relevance = torch.tensor([[math.log(3.0), 0.0]])  # candidate probabilities 3/4 and 1/4
    loss = marginal_loss(logits, relevance, torch.tensor([[1, -100]]), torch.tensor([[1, 0]]))
    assert loss.item() == pytest.approx(-math.log(0.75 * 0.5 + 0.25 / 9), rel=1e-6)


def test_forward_gives_that_loss_and_the_same_for_flat_inputs():
    model = RealmKnowledgeAugEncoder(realm_config()).eval()
    ids, mask, types = joint_inputs()
    labels = torch.full((2, 9), -100)
    labels[0, 2], labels[1, 4] = 11, 12
    mlm_mask = (labels >= 0).long()
    relevance = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])
    output = model(ids, mask, types, relevance_score=relevance, labels=labels, mlm_mask=mlm_mask)
    log_probs = output.logits.log_softmax(-1).view(2, 3, 9, 40)
    prior = relevance.log_softmax(-1)
    expected = (
        -((prior[0] + log_probs[0, :, 2, 11]).logsumexp(0) + (prior[1] + log_probs[1, :, 4, 12]).logsumexp(0)) / 2
    )
    torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=1e-6)
    flat = [tensor.flatten(0, 1) for tensor in (ids, mask, types)]
    loss, logits = model(*flat, relevance_score=relevance, labels=labels, mlm_mask=mlm_mask, return_dict=False)
    assert torch.equal(loss, output.loss)
    assert torch.equal(logits, output.logits)


def test_labels_without_relevance_are_refused():
    model = RealmKnowledgeAugEncoder(realm_config()).eval()
    with pytest.raises(ValueError, match="relevance_score"):
        model(*joint_inputs(), labels=torch.zeros(2, 9, dtype=torch.long))


def test_from_bert_predicts_what_the_masked_language_model_predicts(tmp_path):
    reference = write_bert(tmp_path, BertForMaskedLM)
    model = RealmKnowledgeAugEncoder.from_bert(tmp_path)
    ids, mask, types = (tensor.flatten(0, 1) for tensor in joint_inputs())
    kept = mask.bool()
    expected = reference(ids, mask, types).logits
    torch.testing.assert_close(model(ids, mask, types).logits[kept], expected[kept], rtol=1e-4, atol=1e-4)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_from_bert_without_a_head_draws_it_from_the_seed(tmp_path):
    write_bert(tmp_path, BertModel)
    first, again, other = (RealmKnowledgeAugEncoder.from_bert(tmp_path, seed=seed) for seed in (1, 1, 2))
    name = "cls.predictions.transform.dense.weight"
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])
