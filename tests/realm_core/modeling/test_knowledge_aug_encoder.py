from __future__ import annotations

import math

import pytest
import torch
from support.tiny_encoders import realm_config, write_bert
from transformers import BertForMaskedLM, BertModel

from realm_core.modeling.knowledge_aug_encoder import RealmKnowledgeAugEncoder, labelled_positions, marginal_loss


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


def labelled():
    labels = torch.full((2, 9), -100)
    labels[0, 2:5], labels[1, 4] = torch.tensor([11, 0, 5]), 12
    return labels


def without_dropout():
    torch.manual_seed(2)
    return RealmKnowledgeAugEncoder(realm_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).train()


@pytest.mark.parametrize("mlm_mask", [None, (labelled() >= 0).long(), torch.ones(2, 9), torch.zeros(2, 9)])
def test_the_loss_of_labelled_positions_is_that_of_all_logits(mlm_mask):
    model, relevance = without_dropout(), torch.randn(2, 3)
    arguments = {"relevance_score": relevance, "labels": labelled(), "mlm_mask": mlm_mask}
    lean = model(*joint_inputs(), **arguments)
    full = model(*joint_inputs(), **arguments, output_logits=True)
    assert lean.logits is None
    assert full.logits.shape == (6, 9, 40)
    torch.testing.assert_close(lean.loss, full.loss, rtol=1e-5, atol=1e-6)
    assert len(model(*joint_inputs(), **arguments, return_dict=False)) == 1


def test_the_training_loss_never_makes_logits_of_l_tokens_even_if_all_are_labelled(monkeypatch):
    from realm_core.modeling import knowledge_aug_encoder

    monkeypatch.setattr(knowledge_aug_encoder, "ROWS_OF_LOGITS", 8)
    model, shapes = without_dropout(), []
    labels = torch.randint(0, 40, (2, 9))
    arguments = {"relevance_score": torch.randn(2, 3), "labels": labels}
    expected = model(*joint_inputs(), **arguments, output_logits=True).loss
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.cls.predictions.decoder.register_forward_hook(lambda module, inputs, output: shapes.append(len(output)))
    loss = model(*joint_inputs(), **arguments).loss
    loss.backward()
    assert max(shapes) == 8
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=1e-4, atol=1e-6)


def test_no_logits_without_labels_is_refused():
    with pytest.raises(ValueError, match="output_logits=False needs labels"):
        without_dropout()(*joint_inputs(), output_logits=False)


def test_rows_with_fewer_labels_are_filled_up_with_weightless_positions():
    positions, targets, weights = labelled_positions(labelled(), torch.ones(2, 9))
    assert positions.tolist() == [[2, 3, 4], [4, 0, 0]]
    assert targets.tolist() == [[11, 0, 5], [12, 0, 0]]
    assert weights.tolist() == [[1, 1, 1], [1, 0, 0]]
    positions, _, weights = labelled_positions(torch.full((1, 9), -100), torch.ones(1, 9))
    assert (positions.tolist(), weights.tolist()) == ([[0]], [[0]])
