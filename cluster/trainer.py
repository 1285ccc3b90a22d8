"""The worker group of Ray Train, and what every training loop does: resume, checkpoint, log."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from realm_core.errors import RealmError, TrainingError
from realm_core.training.schedule import ScheduleConfig, learning_rate_at, make_optimizer
from realm_core.training.state import load_training_state, save_training_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from cluster.resources import ResourcePlan
    from realm_core.engines.precision import Precision
    from realm_core.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

MAX_WORKER_FAILURES = 3
MAX_GRADIENT_NORM = 1.0
"""BERT's optimizer clips to this norm."""


def run_on_workers(
    loop: Callable[[dict[str, Any]], None], loop_config: dict[str, Any], *, plan: ResourcePlan, name: str, folder: Path
) -> None:
    """Runs a training loop on all ranks until it returns; a dead rank restarts all from the last checkpoint.

    Raises:
        RealmError: what the loop raised.
        TrainingError: ranks died more often than `MAX_WORKER_FAILURES`.
    """
    trainer = TorchTrainer(
        loop,
        train_loop_config={**loop_config, "threads": plan.trainer_threads, "precision": plan.precision},
        torch_config=TorchConfig(backend="nccl" if plan.trainer_gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=plan.trainer_workers,
            use_gpu=plan.trainer_gpus > 0,
            resources_per_worker=plan.trainer_resources(),
        ),
        run_config=RunConfig(
            name=name, storage_path=str(folder), failure_config=FailureConfig(max_failures=MAX_WORKER_FAILURES)
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        raise _as_ours(error, name) from error


@dataclass
class Rank:
    """One rank of a training run: its models, its optimizer, and where it is."""

    run: RunFolder
    models: dict[str, nn.Module]
    schedule: ScheduleConfig
    seed: int
    checkpoint_interval_steps: int
    precision: Precision
    step: int = 0
    position: int = 0

    def __post_init__(self) -> None:
        context = ray.train.get_context()
        self.index = context.get_world_rank()
        self.num_ranks = context.get_world_size()
        self.device = ray.train.torch.get_device()
        self.optimizer = make_optimizer(self.models.values(), learning_rate=self.schedule.learning_rate)
        self._lines: list[dict[str, Any]] = []
        self._segment = 0

    def resume(self) -> None:
        """Goes to the last checkpoint, where there is one."""
        step = self.run.latest_checkpoint_step()
        if step:
            progress = load_training_state(
                self.run.local_checkpoint(step),
                models=self.models,
                optimizer=self.optimizer,
                rng=np.random.default_rng(self.seed),
            )
            self.step = progress.step
            self.position = progress.data_position[f"rank-{self.index}"]
        self._segment = self.step
        for model in self.models.values():
            model.to(self.device).train()

    @property
    def is_done(self) -> bool:
        """True after the last step."""
        return self.step >= self.schedule.num_steps

    def autocast(self) -> torch.autocast:
        """The forward pass's arithmetic; parameters and optimizer stay in fp32."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def begin_step(self) -> None:
        """Sets the learning rate, and the seed of dropout: a function of run, step and rank, so nothing to resume."""
        torch.manual_seed(int(np.random.SeedSequence([self.seed, self.step, self.index]).generate_state(1)[0]))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, self.schedule)
        self.optimizer.zero_grad(set_to_none=True)

    def end_step(self, loss: torch.Tensor, next_position: int) -> float:
        """Backward and update; returns the gradient's norm. Raises `TrainingError` for a loss that is not finite."""
        if not bool(torch.isfinite(loss)):
            raise _not_finite(self.run.name, self.step)
        loss.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.step += 1
        self.position = next_position
        return float(norm)

    def log(self, **facts: Any) -> None:  # noqa: ANN401 - plain JSON values
        """Writes the step's line."""
        if self.index == 0:
            self._lines.append({"step": self.step, "at_seconds": time.time(), **facts})
            self.run.write_metrics(self._segment, self._lines)

    def sum_over_ranks(self, counts: list[int]) -> list[int]:
        """The sums of all ranks' counts; every rank calls it, and gets them."""
        if self.num_ranks == 1:
            return counts
        totals = torch.tensor(counts, dtype=torch.int64, device=self.device)
        torch.distributed.all_reduce(totals)
        return [int(total) for total in totals.tolist()]

    def checkpoint_if_due(self) -> bool:
        """Saves every `checkpoint_interval_steps` and at the end; True when it did."""
        if self.step % self.checkpoint_interval_steps and not self.is_done:
            return False
        positions = self._all_positions()
        if self.index == 0:
            self.run.save_checkpoint(self.step, lambda folder: self._write_state(folder, positions))
            self._segment, self._lines = self.step, []
        ray.train.report({"step": self.step})
        return True

    def _write_state(self, folder: Path, positions: dict[str, int]) -> None:
        save_training_state(
            folder,
            models=self.models,
            optimizer=self.optimizer,
            step=self.step,
            data_position=positions,
            rng=np.random.default_rng(self.seed),
        )

    def _all_positions(self) -> dict[str, int]:
        mine = torch.tensor([self.position], dtype=torch.int64, device=self.device)
        gathered = [torch.zeros_like(mine) for _ in range(self.num_ranks)]
        if self.num_ranks > 1:
            torch.distributed.all_gather(gathered, mine)
        else:
            gathered = [mine]
        return {f"rank-{rank}": int(position) for rank, position in enumerate(gathered)}


def _not_finite(run_name: str, step: int) -> TrainingError:
    return TrainingError(
        where=f"run {run_name}, step {step}",
        found="a loss that is not finite",
        expected="a finite one",
        action="Lower the learning rate; the last checkpoint is kept.",
    )


def _as_ours(error: BaseException, name: str) -> BaseException:
    """The error of ours that a rank raised, if there is one along the chain of causes."""
    for found in _causes(error):
        if isinstance(found, RealmError):
            return found
        for inner in (getattr(found, "worker_failures", None) or {}).values():
            if isinstance(inner, RealmError):
                return inner
    return TrainingError(
        where=f"run {name}",
        found=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}",
        expected="ranks that live",
        action="Run the command again: it goes on from the last checkpoint. --debug shows the whole error.",
    )


def _causes(error: BaseException | None) -> list[BaseException]:
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return chain
