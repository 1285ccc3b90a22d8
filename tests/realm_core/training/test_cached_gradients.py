"""Chunks and ranks change how the gradient of a warm-up step is made, and not the gradient."""

from __future__ import annotations

import math
from contextlib import nullcontext
from itertools import product

import pytest
import torch
from support.ranks import run_on_ranks
from support.tiny_training import assert_same_gradients, gradients, inverse_cloze_model, inverse_cloze_tensors
from torch.nn.parallel import DistributedDataParallel

from realm_core.training.cached_gradients import inverse_cloze_gradients
from realm_core.training.losses import inverse_cloze_loss
from realm_core.training.micro_batches import chunks


def step_gradients(model, batch, size):
    model.zero_grad()
    torch.manual_seed(3)
    step = inverse_cloze_gradients(model, chunks(batch, size), autocast=nullcontext)
    return step, gradients(model)


@pytest.mark.parametrize("size", [1, 4, 5])
def test_cached_gradients_are_those_of_the_whole_batch(size):
    model, batch = inverse_cloze_model(), inverse_cloze_tensors(10)
    expected_step, expected = step_gradients(model, batch, None)
    step, found = step_gradients(model, batch, size)
    assert step.loss == pytest.approx(expected_step.loss, rel=1e-6)
    assert (step.removed_accuracy, step.kept_accuracy) == pytest.approx(
        (expected_step.removed_accuracy, expected_step.kept_accuracy)
    )
    assert_same_gradients(found, expected)


def test_both_passes_of_a_chunk_see_the_same_dropout():
    """Against all chunks in one graph, which no second pass makes again."""
    model, batch = inverse_cloze_model(dropout=0.3), inverse_cloze_tensors(10)
    torch.manual_seed(3)
    projections = [model(chunk) for chunk in chunks(batch, 4)]
    query_BD, block_BD = (torch.cat(parts) for parts in zip(*projections, strict=True))
    loss = inverse_cloze_loss(query_BD, block_BD, batch["is_removed_B"]).loss
    loss.backward()
    expected = gradients(model)
    step, found = step_gradients(model, batch, 4)
    assert step.loss == pytest.approx(loss.item(), rel=1e-6)
    assert_same_gradients(found, expected)


def test_accuracy_of_no_queries_is_nan():
    batch = inverse_cloze_tensors(4)
    batch["is_removed_B"][:] = True
    step, _ = step_gradients(inverse_cloze_model(), batch, 2)
    assert math.isnan(step.kept_accuracy)
    assert 0 <= step.removed_accuracy <= 1


def _steps_of_a_rank(rank, folder):
    own = {name: tensor[4 * rank : 4 * rank + 4] for name, tensor in inverse_cloze_tensors(8).items()}
    for size in (4, 3):
        model = DistributedDataParallel(inverse_cloze_model())
        step = inverse_cloze_gradients(model, chunks(own, size), autocast=nullcontext)
        values = (step.loss, step.removed_accuracy, step.kept_accuracy)
        torch.save((values, gradients(model.module)), folder / f"{rank}-{size}.pt")


def test_two_ranks_are_one_batch_in_one_chunk_and_in_two(tmp_path):
    step, expected = step_gradients(inverse_cloze_model(), inverse_cloze_tensors(8), None)
    run_on_ranks(_steps_of_a_rank, 2, tmp_path)
    for rank, size in product(range(2), (4, 3)):
        values, found = torch.load(tmp_path / f"{rank}-{size}.pt")
        assert values == pytest.approx((step.loss, step.removed_accuracy, step.kept_accuracy), rel=1e-6)
        assert_same_gradients(found, expected)


def test_chunks_hold_all_queries_and_no_more_columns_than_they_need():
    batch = inverse_cloze_tensors(10)
    pieces = chunks(batch, 4)
    assert pieces[0]["query_ids_BL"].shape == (4, 32)
    assert [len(piece["is_removed_B"]) for piece in pieces] == [4, 4, 2]
    assert [piece["block_ids_BL"].shape[1] for piece in chunks(batch, 1)] == [32, 32, 32, 64, 64, 64, 64, 32, 32, 32]
    assert torch.cat([piece["block_is_token_BL"].sum(1) for piece in pieces]).tolist() == (
        batch["block_is_token_BL"].sum(1).tolist()
    )
