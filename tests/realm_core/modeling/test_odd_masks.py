"""Masks that are legal and unusual give what the plain formula gives."""

from __future__ import annotations

import pytest
import torch
from support.tiny_encoders import realm_config

from realm_core.modeling import RealmEmbedder


def embedder(implementation="sdpa"):
    torch.manual_seed(0)
    model = RealmEmbedder(realm_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).train()
    model.set_attn_implementation(implementation)
    return model


IDS = torch.arange(48).view(4, 12) % 35 + 5


def test_gradients_are_right_where_a_sequence_has_no_token():
    mask = torch.ones(4, 12, dtype=torch.long)
    mask[1] = 0
    gradients = []
    for model in (embedder(), embedder("eager")):
        model(IDS, mask).projected_score.square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    for name, expected in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@pytest.mark.parametrize("shape", [(1, 12), (1, 12, 12)])
def test_one_mask_serves_all_rows(shape):
    mask = torch.ones(shape, dtype=torch.long)
    mask[..., 7:] = 0
    types = torch.zeros(1, 12, dtype=torch.long)
    expected = embedder()(IDS, mask.expand(4, *shape[1:]), types.expand(4, -1)).projected_score
    actual = embedder()(IDS, mask, types).projected_score
    assert actual.shape == (4, 8)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
