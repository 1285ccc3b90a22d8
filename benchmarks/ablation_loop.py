"""The optimizer steps of the ablation: the product's schedule, optimizer and clipping, on one device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from realm_core.training.schedule import ScheduleConfig, learning_rate_at, make_optimizer

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_GRADIENT_NORM = 1.0
"""As `cluster.trainer` clips."""
WARMUP_SHARE = 0.1


class Trainer:
    """AdamW with a linear rise over the first tenth, then a linear fall."""

    def __init__(self, models: Sequence[torch.nn.Module], *, num_steps: int, learning_rate: float, device: str) -> None:
        for model in models:
            model.to(device).train()
        self._optimizer = make_optimizer(models, learning_rate=learning_rate)
        self._schedule = ScheduleConfig(
            num_steps=num_steps, learning_rate=learning_rate, num_warmup_steps=round(WARMUP_SHARE * num_steps)
        )
        self._parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        self._is_gpu = device == "cuda"
        self._step = 0

    def autocast(self) -> torch.autocast:
        """The arithmetic of the forward pass: bf16 on a GPU."""
        return torch.autocast("cuda", dtype=torch.bfloat16, enabled=self._is_gpu)

    def update(self, loss: torch.Tensor) -> float:
        """One optimizer step; returns the loss."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate_at(self._step, self._schedule)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, MAX_GRADIENT_NORM)
        self._optimizer.step()
        self._step += 1
        return float(loss.detach())
