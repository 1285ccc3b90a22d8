"""Learning rate and optimizer, as BERT and the reference train."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from realm_core.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """Length and height of a run's learning rate."""

    num_steps: int
    """Optimizer steps of the whole run; the learning rate is zero at this step. The paper's run took 200,000."""
    learning_rate: float = 3e-5
    """Rate that the warm-up rises to (REALM, section 4.2)."""
    num_warmup_steps: int | None = None
    """Steps of linear rise; by default min(10000, max(100, num_steps / 10)), the reference's rule. Set it in a run of
    fewer than some hundred steps, which would else end inside its warm-up."""

    def __post_init__(self) -> None:
        wrong = [] if self.num_steps >= 1 else [f"num_steps={self.num_steps}"]
        wrong += [] if self.learning_rate > 0 else [f"learning_rate={self.learning_rate}"]
        wrong += [] if self.warmup_steps >= 0 else [f"num_warmup_steps={self.num_warmup_steps}"]
        if wrong:
            raise UsageError(
                where="ScheduleConfig",
                found=", ".join(wrong),
                expected="num_steps >= 1, learning_rate > 0, num_warmup_steps >= 0",
                action="Correct these values.",
            )

    @property
    def warmup_steps(self) -> int:
        """The warm-up's length, given or by default."""
        if self.num_warmup_steps is not None:
            return self.num_warmup_steps
        return min(10_000, max(100, self.num_steps // 10))


def learning_rate_at(step: int, config: ScheduleConfig) -> float:
    """The learning rate of the update that follows `step` finished updates.

    As in the reference: `rate * step / warm-up` first, so the very first update moves nothing; then
    `rate * (1 - step / num_steps)`, counted from the run's start and not from the warm-up's end, so the rate steps
    down a little where the warm-up ends. Zero from `num_steps` on.
    """
    if step < config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    return config.learning_rate * max(0.0, 1.0 - step / config.num_steps)


def make_optimizer(
    models: Iterable[nn.Module], *, learning_rate: float, weight_decay: float = 0.01
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of all models, in a stable order.

    Betas 0.9 and 0.999, epsilon 1e-6 and decay 0.01 are BERT's; departs from BERT's own optimizer in torch's bias
    correction, which matters in the first steps only.
    """
    return torch.optim.AdamW(parameter_groups(models, weight_decay=weight_decay), lr=learning_rate, eps=1e-6)


def parameter_groups(models: Iterable[nn.Module], *, weight_decay: float) -> list[dict[str, object]]:
    """Two groups: weights with decay, then biases and LayerNorm without.

    A parameter that two models share comes once; frozen ones do not come at all.
    """
    decayed: dict[nn.Parameter, None] = {}
    undecayed: dict[nn.Parameter, None] = {}
    for model in models:
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                group = undecayed if name.endswith("bias") or isinstance(module, nn.LayerNorm) else decayed
                if parameter.requires_grad and parameter not in decayed and parameter not in undecayed:
                    group[parameter] = None
    return [
        {"params": list(decayed), "weight_decay": weight_decay},
        {"params": list(undecayed), "weight_decay": 0.0},
    ]
