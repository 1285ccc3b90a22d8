"""The gradient of a warm-up step, whose in-batch negatives may be more than memory holds the forward passes of.

Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited setup" (GradCache): the loss depends
on the model through the embeddings alone. So all chunks are embedded without a graph, the loss gives the gradient of
each embedding, and then each chunk is embedded again, with the same dropout, to carry its gradients on to the
parameters. One more forward pass, and the memory of one chunk.

Shapes: B queries of this rank (each with its block), R blocks of all ranks, D projection.
"""

# mypy: allow-untyped-calls
# torch leaves some functions unannotated.

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

from realm_core.training.losses import InverseClozeLoss, inverse_cloze_loss
from realm_core.training.ranks import gradients_stay_local, num_ranks, sum_over_ranks, unwrapped

Autocast = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class WarmupStepLoss:
    """What a step came to, over the queries of all ranks; the same on every rank."""

    loss: float
    removed_accuracy: float
    """See `InverseClozeLoss`; NaN where no query of any rank was removed."""
    kept_accuracy: float


def inverse_cloze_gradients(
    model: nn.Module, batches: Sequence[dict[str, Tensor]], *, autocast: Autocast
) -> WarmupStepLoss:
    """Adds to the parameters' gradients that of the mean loss over the queries of all ranks.

    The blocks of all chunks and all ranks are negatives of each query. All ranks must call it together, with as many
    queries each.

    Args:
        model: an `InverseClozeModel`, or one in `DistributedDataParallel`.
        batches: the chunks of this rank's batch; of a single one the gradients are made in one pass.
        autocast: makes the context of each forward pass.
    """
    is_removed_B = torch.cat([batch["is_removed_B"] for batch in batches])
    if len(batches) == 1:
        with autocast():
            query_BD, block_BD = model(batches[0])
        loss = _loss(query_BD, block_BD, is_removed_B)
        loss.loss.backward()
        return _over_ranks(loss, is_removed_B)
    query_BD, block_BD, random_states = _embed(unwrapped(model), batches, autocast)
    loss = _loss(query_BD.requires_grad_(), block_BD.requires_grad_(), is_removed_B)
    loss.loss.backward()
    _carry_on(model, batches, random_states, (query_BD.grad, block_BD.grad), autocast)
    return _over_ranks(loss, is_removed_B)


def _embed(
    model: nn.Module, batches: Sequence[dict[str, Tensor]], autocast: Autocast
) -> tuple[Tensor, Tensor, list[tuple[Tensor, ...]]]:
    """Projections of queries and blocks [B, D] without a graph, and the random generators before each chunk."""
    queries, blocks, random_states = [], [], []
    for batch in batches:
        random_states.append(_random_state(batch["query_ids_BL"].device))
        with torch.no_grad(), autocast():
            query_BD, block_BD = model(batch)
        queries.append(query_BD)
        blocks.append(block_BD)
    return torch.cat(queries), torch.cat(blocks), random_states


def _carry_on(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    random_states: Sequence[tuple[Tensor, ...]],
    gradients: tuple[Tensor | None, Tensor | None],
    autocast: Autocast,
) -> None:
    """Backward of each chunk, with the gradients of its queries and blocks."""
    start = 0
    for batch, random_state in zip(batches, random_states, strict=True):
        stop = start + len(batch["query_ids_BL"])
        _restore(random_state, batch["query_ids_BL"].device)
        with nullcontext() if batch is batches[-1] else gradients_stay_local(model):
            with autocast():
                projections = model(batch)
            torch.autograd.backward(projections, [None if g is None else g[start:stop] for g in gradients])
        start = stop


def _loss(query_BD: Tensor, block_BD: Tensor, is_removed_B: Tensor) -> InverseClozeLoss:
    if num_ranks() == 1:
        return inverse_cloze_loss(query_BD, block_BD, is_removed_B)
    block_RD = torch.cat(all_gather(block_BD))  # its backward pass brings each rank's gradients of these blocks home
    return inverse_cloze_loss(query_BD, block_RD, is_removed_B, first_own_row=dist.get_rank() * len(query_BD))


def _over_ranks(loss: InverseClozeLoss, is_removed_B: Tensor) -> WarmupStepLoss:
    num_removed, num_queries = int(is_removed_B.sum()), len(is_removed_B)
    num_kept = num_queries - num_removed
    own = [
        float(loss.loss.detach()) * num_queries,
        num_queries,
        float(loss.removed_accuracy) * num_removed if num_removed else 0.0,
        num_removed,
        float(loss.kept_accuracy) * num_kept if num_kept else 0.0,
        num_kept,
    ]
    sums = sum_over_ranks(own, is_removed_B.device)
    means = [total / count if count else float("nan") for total, count in zip(sums[::2], sums[1::2], strict=True)]
    return WarmupStepLoss(*means)


def _random_state(device: torch.device) -> tuple[Tensor, ...]:
    """Of the generators that dropout draws from: the CPU's, and the device's own."""
    on_device = (torch.cuda.get_rng_state(device),) if device.type == "cuda" else ()
    return (torch.get_rng_state(), *on_device)


def _restore(state: tuple[Tensor, ...], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)
