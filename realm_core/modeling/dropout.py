"""Dropout that is quick on a CPU and keeps one byte per value for the backward pass, or nothing but a seed.

PyTorch draws one float per value there, and keeps it. Here a value is dropped by 16 random bits of its own, and what is
kept is scaled by exactly the share that is: the expectation is the input.
"""

# mypy: allow-untyped-calls
# torch leaves some methods unannotated.

from __future__ import annotations

from math import ceil, prod

import torch
from torch import Tensor, nn

_LEVELS = 1 << 16
_VALUES_PER_DRAW = 4
"""16-bit values in one 64-bit draw."""


def keep_share(probability: float) -> float:
    """The share of values that dropout of this probability keeps: the nearest of 65,536 levels, at least one."""
    return max(1, round((1 - probability) * _LEVELS)) / _LEVELS


def keep_mask(
    shape: torch.Size | tuple[int, ...], probability: float, generator: torch.Generator | None = None
) -> Tensor:
    """True, on the CPU, where a value is kept; drawn from the generator, by default PyTorch's own."""
    num_values = prod(shape)
    draws = torch.empty(ceil(num_values / _VALUES_PER_DRAW), dtype=torch.int64)
    draws.random_(-(2**63), None, generator=generator)
    below = round(keep_share(probability) * _LEVELS) - _LEVELS // 2  # 16 bits as a signed number
    kept = (
        torch.ones(num_values, dtype=torch.bool)
        if below >= _LEVELS // 2
        else draws.view(torch.int16)[:num_values] < below
    )
    return kept.view(shape)


class RealmDropout(nn.Dropout):
    """`nn.Dropout`, by `keep_mask` on a CPU."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name of nn.Dropout's
        """The input with values dropped at random in training mode."""
        if not self.training or self.p == 0:
            return input
        if self.p == 1 or input.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(input)
        return input * keep_mask(input.shape, self.p) * (1 / keep_share(self.p))
