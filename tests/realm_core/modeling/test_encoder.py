from __future__ import annotations

import pytest
import torch
from support.tiny_encoders import realm_config, write_bert
from transformers import BertModel

from realm_core.modeling.bert import read_bert
from realm_core.modeling.encoder import RealmBertModel
from realm_core.modeling.layers import additive_mask


@pytest.fixture
def bert(tmp_path):
    """A real BertModel and the same weights in RealmBertModel."""
    reference = write_bert(tmp_path)
    checkpoint = read_bert(tmp_path, {})
    model = RealmBertModel(checkpoint.config).eval()
    model.load_state_dict({name.removeprefix("realm."): tensor for name, tensor in checkpoint.tensors.items()})
    return reference, model


def inputs(padding_id=0):
    torch.manual_seed(1)
    ids = torch.randint(5, 40, (3, 11))
    mask = torch.ones(3, 11, dtype=torch.long)
    mask[0, 7:], mask[2, 2:] = 0, 0
    ids[mask == 0] = padding_id
    types = torch.zeros_like(ids)
    types[:, 4:] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_equals_transformers_bert(bert, attention):
    reference, model = bert
    model.set_attn_implementation(attention)
    expected, actual = reference(**inputs()), model(**inputs())
    kept = inputs()["attention_mask"].bool()
    torch.testing.assert_close(actual.last_hidden_state[kept], expected.last_hidden_state[kept], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(actual.pooler_output, expected.pooler_output, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.long, torch.float32])
def test_padding_never_reaches_an_output_whatever_the_masks_dtype(bert, attention, mask_dtype):
    _, model = bert
    model.set_attn_implementation(attention)
    clean, poisoned = inputs(padding_id=0), inputs(padding_id=39)
    for batch in (clean, poisoned):
        batch["attention_mask"] = batch["attention_mask"].to(mask_dtype)
    kept = clean["attention_mask"].bool()
    torch.testing.assert_close(
        model(**clean).last_hidden_state[kept], model(**poisoned).last_hidden_state[kept], rtol=0, atol=0
    )


def test_states_at_equals_those_rows_of_the_whole_forward_pass(bert):
    _, model = bert
    positions = torch.tensor([[0, 3, 6], [10, 1, 1], [0, 0, 1]])
    whole = model(**inputs()).last_hidden_state
    expected = torch.stack([whole[row, positions[row]] for row in range(3)])
    torch.testing.assert_close(model.states_at(positions, **inputs()), expected, rtol=1e-5, atol=1e-6)


def test_attentions_and_hidden_states_come_on_request(bert):
    reference, model = bert
    output = model(**inputs(), output_attentions=True, output_hidden_states=True)
    assert [tuple(weights.shape) for weights in output.attentions] == [(3, 2, 11, 11)] * 3
    torch.testing.assert_close(output.attentions[0].sum(-1), torch.ones(3, 2, 11))
    assert output.attentions[0][0, :, :, 7:].abs().max() == 0
    assert len(output.hidden_states) == 4
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    expected = reference(**inputs(), output_hidden_states=True).hidden_states
    torch.testing.assert_close(output.hidden_states[0], expected[0], rtol=1e-5, atol=1e-6)


def test_the_tuple_form_has_the_same_outputs_in_order(bert):
    _, model = bert
    as_dict = model(**inputs(), output_hidden_states=True)
    last, pooled, hidden_states = model(**inputs(), output_hidden_states=True, return_dict=False)
    assert torch.equal(last, as_dict.last_hidden_state)
    assert torch.equal(pooled, as_dict.pooler_output)
    assert len(hidden_states) == len(as_dict.hidden_states)


def test_gradient_checkpointing_changes_no_gradient(bert):
    _, model = bert
    for name, module in model.named_modules():
        if name.endswith("dropout"):
            module.p = 0.0
    model.train()
    gradients = []
    for checkpointing in (False, True):
        model.zero_grad()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(**inputs()).pooler_output.sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    assert model.encoder.layer[0].gradient_checkpointing
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-6)


def test_dropout_acts_in_training_and_not_in_evaluation():
    model = RealmBertModel(realm_config())
    batch = inputs()
    model.train()
    assert not torch.equal(model(**batch).pooler_output, model(**batch).pooler_output)
    model.eval()
    assert torch.equal(model(**batch).pooler_output, model(**batch).pooler_output)


def test_without_a_pooler_there_is_no_pooled_state():
    model = RealmBertModel(realm_config(), add_pooling_layer=False).eval()
    assert model(**inputs()).pooler_output is None
    with pytest.raises(ValueError, match="add_pooling_layer=False"):
        model.pool(torch.zeros(1, 16))


def test_token_ids_and_word_embeddings_are_alternatives(bert):
    _, model = bert
    batch = inputs()
    embeds = model.get_input_embeddings()(batch.pop("input_ids"))
    assert torch.equal(model(inputs_embeds=embeds, **batch).pooler_output, model(**inputs()).pooler_output)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(**inputs(), inputs_embeds=embeds)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()


def test_the_additive_mask_is_zero_for_tokens_and_the_least_number_for_padding():
    mask = additive_mask(torch.tensor([[1, 1, 0]]), torch.float32)
    least = torch.finfo(torch.float32).min
    assert mask.tolist() == [[[[0.0, 0.0, least]]]]
    assert additive_mask(None, torch.float32) is None
    assert additive_mask(torch.ones(2, 3, 3), torch.bfloat16).shape == (2, 1, 3, 3)


def test_state_dict_names_are_those_of_bert(bert):
    reference, model = bert
    assert set(model.state_dict()) == set(BertModel(reference.config).state_dict())
