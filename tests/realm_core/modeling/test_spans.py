from __future__ import annotations

import math

import pytest
import torch

from realm_core.modeling.spans import add_mask, is_answer_span, marginal_log_loss, span_candidates

CPU = torch.device("cpu")


def test_candidates_are_all_spans_up_to_the_width_narrow_ones_first():
    starts, ends = span_candidates(4, 3, CPU)
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == [
        *[(0, 0), (1, 1), (2, 2), (3, 3)],
        *[(0, 1), (1, 2), (2, 3)],
        *[(0, 2), (1, 3)],
    ]


def test_spans_that_are_answers_are_found_per_block_and_padding_finds_none():
    starts, ends = span_candidates(3, 2, CPU)  # 00 11 22 01 12
    answer_starts, answer_ends = torch.tensor([[0, 2], [-1, -1]]), torch.tensor([[1, 2], [-1, -1]])
    found = is_answer_span(starts, ends, answer_starts, answer_ends)
    assert found.tolist() == [[False, False, True, True, False], [False] * 5]
    batch = is_answer_span(starts, ends, answer_starts[None], answer_ends[None])
    assert torch.equal(batch[0], found)


def test_the_loss_is_the_one_computed_by_hand():
    scores = torch.tensor([math.log(1.0), math.log(2.0), math.log(5.0)])
    loss = marginal_log_loss(scores, torch.tensor([True, False, True]))
    assert loss.item() == pytest.approx(-math.log(6 / 8), rel=1e-6)


def test_without_a_correct_entry_loss_and_gradient_are_zero_even_where_everything_is_masked():
    scores = torch.zeros(2, 3, requires_grad=True)
    masked = add_mask(scores, torch.tensor([[True, True, False], [False, False, False]]))
    loss = marginal_log_loss(masked, torch.zeros(2, 3, dtype=torch.bool))
    loss.sum().backward()
    assert loss.tolist() == [0, 0]
    assert torch.equal(scores.grad, torch.zeros(2, 3))
