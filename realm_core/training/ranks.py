"""What the ranks of a data-parallel run tell each other; a process without a group is the only rank."""

# mypy: allow-untyped-calls
# torch leaves some functions unannotated.

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def num_ranks() -> int:
    """1 where there is no process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(values: Sequence[float], device: torch.device) -> list[float]:
    """Element-wise sums in float64, the same bits on every rank; all ranks must call it together."""
    summed = torch.tensor(values, dtype=torch.float64, device=device)
    if num_ranks() > 1:
        dist.all_reduce(summed)
    return cast("list[float]", summed.tolist())


def max_over_ranks(values: Sequence[float], device: torch.device) -> list[float]:
    """Element-wise maxima in float64, the same on every rank; all ranks must call it together."""
    largest = torch.tensor(values, dtype=torch.float64, device=device)
    if num_ranks() > 1:
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return cast("list[float]", largest.tolist())


def gradients_stay_local(model: nn.Module) -> AbstractContextManager[None]:
    """While it is open, backward passes of a wrapped model add up and are not averaged over ranks."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrapper of data parallelism, or the model itself."""
    return cast(nn.Module, model.module) if isinstance(model, DistributedDataParallel) else model
