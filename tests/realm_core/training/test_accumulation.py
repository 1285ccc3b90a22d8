"""However a step's queries are divided, over micro-batches or ranks, its loss and gradient are those of one batch."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from support.ranks import run_on_ranks
from support.tiny_training import assert_same_gradients, gradients, pretrain_model, pretrain_tensors
from torch.nn.parallel import DistributedDataParallel

from realm_core.errors import UsageError
from realm_core.training.accumulation import accumulate_gradients
from realm_core.training.micro_batches import micro_batches
from realm_core.training.models import recompute_layers
from realm_core.training.ranks import max_over_ranks


def whole_step():
    model = pretrain_model()
    loss, utility, num_masked = model(pretrain_tensors())
    loss.backward()
    return (loss.item(), utility.item(), num_masked.item()), gradients(model)


@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_accumulated_micro_batches_are_one_large_batch(count):
    expected, expected_gradients = whole_step()
    model = pretrain_model()
    step = accumulate_gradients(model, micro_batches(pretrain_tensors(), count), autocast=nullcontext)
    assert (step.loss, step.retrieval_utility) == pytest.approx(expected[:2], rel=1e-6, abs=1e-6)
    assert step.num_masked_tokens == expected[2]
    assert_same_gradients(gradients(model), expected_gradients)


def test_a_mean_over_micro_batches_would_be_another_gradient():
    """The batches of the test above can tell: their micro-batches differ in masked tokens."""
    pieces = micro_batches(pretrain_tensors(), 4)
    assert len({int(piece["is_masked_BM"].sum()) for piece in pieces}) > 1
    _, expected = whole_step()
    model = pretrain_model()
    for piece in pieces:
        (model(piece)[0] / len(pieces)).backward()
    with pytest.raises(AssertionError):
        assert_same_gradients(gradients(model), expected)


def _step_of_a_rank(rank, folder):
    """Rank 0 has two queries of the batch in one piece, rank 1 four in two."""
    batch = pretrain_tensors()
    own = {name: tensor[:2] if rank == 0 else tensor[2:] for name, tensor in batch.items()}
    model = DistributedDataParallel(pretrain_model())
    step = accumulate_gradients(model, micro_batches(own, rank + 1), autocast=nullcontext)
    largest = max_over_ranks([rank, -rank], torch.device("cpu"))
    torch.save((step.loss, step.num_masked_tokens, gradients(model.module), largest), folder / f"{rank}.pt")


def test_ranks_with_unequal_batches_are_one_large_batch(tmp_path):
    expected, expected_gradients = whole_step()
    run_on_ranks(_step_of_a_rank, 2, tmp_path)
    for rank in range(2):
        loss, num_masked, found, largest = torch.load(tmp_path / f"{rank}.pt")
        assert largest == [1, 0]
        assert loss == pytest.approx(expected[0], rel=1e-6)
        assert num_masked == expected[2]
        assert_same_gradients(found, expected_gradients)


def test_a_micro_batch_is_as_wide_as_its_own_longest_text():
    batch = pretrain_tensors()
    first, *_, last = micro_batches(batch, 6)
    assert first["joint_ids_BNL"].shape == (1, 3, 32)
    assert last["joint_ids_BNL"].shape == batch["joint_ids_BNL"][-1:].shape
    assert first["target_ids_BM"].shape == (1, 1)
    for piece in (first, last):
        assert piece["joint_ids_BNL"].shape == piece["joint_is_token_BNL"].shape == piece["joint_token_types_BNL"].shape
    assert torch.equal(last["query_ids_BL"], batch["query_ids_BL"][-1:])


@pytest.mark.parametrize("count", [0, 7])
def test_more_pieces_than_queries_are_refused(count):
    with pytest.raises(UsageError, match="--accumulation-steps"):
        micro_batches(pretrain_tensors(), count)


def saved_bytes(model, batch):
    """What the forward pass keeps for the backward pass, parameters left out, and the gradients."""
    kept = {}
    own = {parameter.data_ptr() for parameter in model.parameters()}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(batch)[0]
    num_bytes = sum(kept.values())
    loss.backward()
    return num_bytes, gradients(model)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_recomputed_layers_give_the_same_gradients_and_keep_less(dropout):
    batch = pretrain_tensors()
    plain_bytes, expected = saved_bytes(pretrain_model(dropout), batch)
    model = pretrain_model(dropout)
    recompute_layers(model)
    num_bytes, found = saved_bytes(model, batch)
    assert_same_gradients(found, expected)
    assert num_bytes < plain_bytes / 2
