"""The gradient of a pre-training step whose batch is larger than memory, or spread over ranks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from realm_core.training.ranks import gradients_stay_local, num_ranks, sum_over_ranks


@dataclass(frozen=True, slots=True)
class PretrainStepLoss:
    """What a step came to, over all micro-batches of all ranks; the same on every rank."""

    loss: float
    """Negative log marginal likelihood per masked token."""
    retrieval_utility: float
    """In nats per masked token, see `RealmLoss`."""
    num_masked_tokens: int
    forward_seconds: float
    """Of this rank, all micro-batches together."""
    backward_seconds: float


def accumulate_gradients(
    model: nn.Module, batches: Sequence[dict[str, Tensor]], *, autocast: Callable[[], AbstractContextManager[object]]
) -> PretrainStepLoss:
    """Adds to the parameters' gradients that of the mean loss over the masked tokens of all batches of all ranks.

    Micro-batches hold different numbers of masked tokens, so each counts by its own: the gradient is the one of a
    single batch of all queries, however they are divided. All ranks must call it together, with a batch at least.

    Args:
        model: a `RealmPretrainModel`, or one in `DistributedDataParallel`, which averages gradients over ranks.
        batches: micro-batches of this rank.
        autocast: makes the context of each forward pass.
    """
    device = batches[0]["is_masked_BM"].device
    own_masked_tokens = sum(int(batch["is_masked_BM"].sum()) for batch in batches)
    [num_masked_tokens] = sum_over_ranks([own_masked_tokens], device)
    sums = [0.0, 0.0]
    forward_seconds = backward_seconds = 0.0
    for batch in batches:
        with nullcontext() if batch is batches[-1] else gradients_stay_local(model):
            started = time.monotonic()
            with autocast():
                loss, retrieval_utility, num_own = model(batch)
            sums[0] += float(loss.detach()) * int(num_own)
            sums[1] += float(retrieval_utility) * int(num_own)
            forwarded = time.monotonic()
            torch.autograd.backward(loss * (num_own * num_ranks() / max(1.0, num_masked_tokens)))
            forward_seconds += forwarded - started
            backward_seconds += time.monotonic() - forwarded
    loss_sum, utility_sum = sum_over_ranks(sums, device)
    return PretrainStepLoss(
        loss=loss_sum / max(1.0, num_masked_tokens),
        retrieval_utility=utility_sum / max(1.0, num_masked_tokens),
        num_masked_tokens=int(num_masked_tokens),
        forward_seconds=forward_seconds,
        backward_seconds=backward_seconds,
    )
