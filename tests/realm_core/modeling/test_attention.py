"""Shapes: B sequences, A heads, Q query rows, L tokens, d width of a head."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from realm_core.modeling.attention import eager_attention, fused_attention, packed_attention
from realm_core.modeling.dropout import keep_mask, keep_share


def states(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def masked(num_sequences=3, num_tokens=7):
    mask = torch.zeros(num_sequences, 1, 1, num_tokens)
    mask[0, ..., 4:] = torch.finfo(torch.float32).min
    return mask


@pytest.mark.parametrize("mask", [None, masked()], ids=["no mask", "mask"])
def test_fused_attention_is_eager_attention(mask):
    query, key, value = states(3, 2, 5, 4), states(3, 2, 7, 4), states(3, 2, 7, 4)
    expected, weights = eager_attention(query, key, value, mask, 0.0)
    torch.testing.assert_close(fused_attention(query, key, value, mask, 0.0), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 5))


def test_a_head_mask_switches_heads_off():
    query, key, value = states(1, 2, 3, 4), states(1, 2, 3, 4), states(1, 2, 3, 4)
    head_mask = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    context, weights = eager_attention(query, key, value, None, 0.0, head_mask)
    assert context[:, 0].abs().sum() == 0
    assert weights[:, 0].abs().sum() == 0
    torch.testing.assert_close(context[:, 1], eager_attention(query, key, value, None, 0.0)[0][:, 1])


def reference_with_dropout(query, key, value, mask, probability, seed):
    """Attention with dropout, the plain way, dropping what the seed says."""
    contexts = []
    for i in range(len(query)):
        scores = query[i] @ key[i].transpose(-1, -2) * query.shape[-1] ** -0.5
        weights = (scores if mask is None else scores + mask[i]).softmax(-1)
        torch.manual_seed(seed) if i == 0 else None
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        contexts.append(weights * keep_mask(weights.shape, probability, generator) / keep_share(probability) @ value[i])
    return torch.stack(contexts)


@pytest.mark.parametrize("mask", [None, masked()], ids=["no mask", "mask"])
def test_attention_with_dropout_and_its_gradients_are_those_of_the_plain_formula(mask):
    inputs = [states(3, 2, 5, 4).requires_grad_(), *(states(3, 2, 7, 4).requires_grad_() for _ in range(2))]
    copies = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    torch.manual_seed(11)
    actual = fused_attention(*inputs, mask, 0.3)
    expected = reference_with_dropout(*copies, mask, 0.3, seed=11)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    upstream = torch.randn_like(actual)
    actual.backward(upstream)
    expected.backward(upstream)
    for tensor, copy in zip(inputs, copies, strict=True):
        torch.testing.assert_close(tensor.grad, copy.grad, rtol=1e-4, atol=1e-5)


def test_gradients_with_dropout_pass_the_numerical_check():
    inputs = [states(1, 2, n, 3, dtype=torch.float64).requires_grad_() for n in (3, 4, 4)]

    def attend(query, key, value):
        torch.manual_seed(5)  # the same weights are dropped at every evaluation
        return fused_attention(query, key, value, None, 0.4)

    assert torch.autograd.gradcheck(attend, inputs, fast_mode=False)


def test_the_mean_over_many_draws_is_attention_without_dropout():
    query, key, value = states(1, 1, 2, 4), states(1, 1, 6, 4), states(1, 1, 6, 4)
    expected = functional.scaled_dot_product_attention(query, key, value)
    mean = torch.stack([fused_attention(query, key, value, None, 0.2) for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, expected, rtol=0, atol=0.06)


@pytest.mark.parametrize("query_lengths", [(3, 1, 6), (2, 2, 2)], ids=["all rows", "two rows each"])
def test_packed_sequences_attend_to_themselves_alone(query_lengths):
    key_lengths = (3, 1, 6)
    query, key, value = states(sum(query_lengths), 2, 4), states(10, 2, 4), states(10, 2, 4)
    context = packed_attention(query, key, value, query_lengths, key_lengths, 0.0)
    parts = (query.split(query_lengths), key.split(key_lengths), value.split(key_lengths), context.split(query_lengths))
    for one_query, one_key, one_value, one_context in zip(*parts, strict=True):
        alone = (tensor.transpose(0, 1)[None] for tensor in (one_query, one_key, one_value))
        expected = eager_attention(*alone, None, 0.0)[0][0].transpose(0, 1)
        torch.testing.assert_close(one_context, expected, rtol=1e-5, atol=1e-6)


def test_what_is_kept_for_the_backward_pass_does_not_grow_with_the_square_of_the_length():
    def kept_bytes(num_tokens):
        tensors = {}

        def pack(tensor):
            tensors[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        query, key, value = (states(1, 2, num_tokens, 4).requires_grad_() for _ in range(3))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            fused_attention(query, key, value, None, 0.1)
        return sum(tensors.values())

    assert kept_bytes(256) <= 2.1 * kept_bytes(128)
