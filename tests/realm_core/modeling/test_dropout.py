from __future__ import annotations

import pytest
import torch
from torch import nn

from realm_core.modeling.dropout import RealmDropout, keep_mask, keep_share


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.9, 0.99999])
def test_the_share_that_is_kept_is_the_one_that_values_are_scaled_by(probability):
    torch.manual_seed(0)
    kept = keep_mask((1000, 1001), probability)
    share = keep_share(probability)
    assert kept.shape == (1000, 1001)
    assert abs(share - (1 - probability)) <= 1 / 65536
    deviation = (share * (1 - share) / kept.numel()) ** 0.5
    assert abs(kept.double().mean().item() - share) <= 5 * deviation


def test_every_16_bit_lane_of_a_draw_is_uniform():
    torch.manual_seed(1)
    lanes = keep_mask((400_000, 4), 0.5).double().mean(0)
    assert ((lanes - 0.5).abs() < 0.005).all()


def test_a_seed_gives_the_same_mask_again_and_another_seed_another():
    masks = [keep_mask((64, 3), 0.3, torch.Generator().manual_seed(seed)) for seed in (7, 7, 8)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_pytorchs_seed_decides_what_is_dropped():
    dropout, ones = RealmDropout(0.4), torch.ones(50, 7)
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        results.append(dropout(ones))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_kept_values_and_their_gradients_are_scaled_alike():
    torch.manual_seed(2)
    values = torch.randn(40, 30, requires_grad=True)
    dropped = RealmDropout(0.25)(values)
    dropped.sum().backward()
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], values[kept] / keep_share(0.25))
    torch.testing.assert_close(values.grad, kept / keep_share(0.25))


def test_it_is_the_identity_in_evaluation_and_without_probability():
    values = torch.randn(5, 5)
    assert RealmDropout(0.5).eval()(values) is values
    assert RealmDropout(0.0)(values) is values
    assert torch.equal(RealmDropout(1.0)(values), torch.zeros(5, 5))
    assert isinstance(RealmDropout(0.1), nn.Dropout)  # what `set_dropout` and others look for
