"""The worker group of Ray Train, and what every training loop does: resume, checkpoint, log."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray.train
import torch
import torch.distributed
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, prepare_model

from realm_core.errors import ArtifactCorruptError, ArtifactMissingError, RealmError, TrainingError
from realm_core.training.run_folder import Merit
from realm_core.training.schedule import ScheduleConfig, learning_rate_at, make_optimizer
from realm_core.training.state import TrainingProgress, load_training_state, save_training_state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import nn

    from cluster.resources import ResourcePlan
    from realm_core.engines.precision import Precision
    from realm_core.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

MAX_WORKER_FAILURES = 3
MAX_NAMED_RANKS = 4
"""In an error; where one fails, the others lose their connection to it."""
MAX_GRADIENT_NORM = 1.0
"""BERT's optimizer clips to this norm."""
SECONDS_BETWEEN_WRITES = 1.0
"""Of the lines of metrics: a step of milliseconds must not wait for a file, or an object store, each time."""


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
        raise run_error(error, name) from error


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
        self._resume_problem = ""
        self._segment = 0
        self._written_at = 0.0

    def resume(self) -> None:
        """Goes to the newest checkpoint that can be read, where there is one; all ranks go to the same.

        Raises:
            ArtifactCorruptError, ArtifactMissingError: there are checkpoints, and none can be read.
            TrainingError: this rank cannot read the one that rank 0 has read.
        """
        for model in self.models.values():
            model.to(self.device).train()  # before the optimizer's state is loaded, which goes where parameters are
        progress = self._load_newest() if self.index == 0 else None
        step = self._from_rank_0(progress.step if progress else 0)
        if step:
            progress = progress or self._load(step)
            self.step = progress.step
            self.position = progress.data_position[f"rank-{self.index}"]
        self._segment = self.step

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model on this rank's device, wrapped where there are more ranks."""
        if self.num_ranks == 1:
            return model.to(self.device)
        # Gradients as views of the buckets that are sent: else each would be in memory twice.
        wrapped: nn.Module = prepare_model(model, parallel_strategy_kwargs={"gradient_as_bucket_view": True})
        return wrapped

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

    def update(self, loss: float, next_position: int) -> float:
        """Clips the gradients and takes the step; returns their norm.

        Raises:
            TrainingError: loss or gradients are not finite, on all ranks alike; nothing was changed.
        """
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise _not_finite(self.run.name, self.step, loss, norm)
        self.optimizer.step()
        self.step += 1
        self.position = next_position
        return norm

    def log(self, **facts: Any) -> None:  # noqa: ANN401 - plain JSON values
        """Notes the step's line; what was noted is written once a second, and before each checkpoint."""
        if self.index == 0:
            rate = self.optimizer.param_groups[0]["lr"]
            if self._resume_problem:
                facts["resume_problem"], self._resume_problem = self._resume_problem, ""
            self._lines.append({"step": self.step, "at_seconds": time.time(), "learning_rate": rate, **facts})
            if time.monotonic() - self._written_at >= SECONDS_BETWEEN_WRITES:
                self._write_lines()

    def checkpoint_if_due(self, *, is_due: bool = False) -> bool:
        """Saves every `checkpoint_interval_steps`, at the end, and when it is due for another reason; True if it did.

        A step's `retrieval_utility` and `masked_tokens`, where they were logged, make the checkpoint's merit.
        """
        if not (is_due or self.is_done or self.step % self.checkpoint_interval_steps == 0):
            return False
        positions = self._all_positions()
        if self.index == 0:
            self._write_lines()
            merit = merit_of(self._lines, self.checkpoint_interval_steps)
            self.run.save_checkpoint(self.step, lambda folder: self._write_state(folder, positions), merit=merit)
            self._segment, self._lines = self.step, []
        ray.train.report({"step": self.step})
        return True

    def _load_newest(self) -> TrainingProgress | None:
        """Falls back to the checkpoint before where one cannot be read; the next step's line says so."""
        steps = self.run.checkpoint_steps()
        for step in reversed(steps):
            try:
                return self._load(step)
            except (ArtifactCorruptError, ArtifactMissingError) as error:
                if step == steps[0]:
                    raise
                self._resume_problem = f"checkpoint of step {step} CANNOT BE READ, an earlier one was taken: {error}"
                logger.error(self._resume_problem)
        return None

    def _load(self, step: int) -> TrainingProgress:
        rng = np.random.default_rng(self.seed)
        folder = self.run.local_checkpoint(step)
        return load_training_state(folder, models=self.models, optimizer=self.optimizer, rng=rng)

    def _from_rank_0(self, value: int) -> int:
        shared = torch.tensor([value], dtype=torch.int64, device=self.device)
        if self.num_ranks > 1:
            torch.distributed.broadcast(shared, 0)
        return int(shared)

    def _write_lines(self) -> None:
        self.run.write_metrics(self._segment, self._lines)
        self._written_at = time.monotonic()

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


def merit_of(lines: Sequence[dict[str, Any]], interval_steps: int) -> Merit | None:
    """The merit of the model after the steps of these lines; None where they have no retrieval utility."""
    if not lines or lines[0].get("retrieval_utility") is None:
        return None
    num_masked_tokens = sum(line["masked_tokens"] for line in lines)
    utility = sum(line["retrieval_utility"] * line["masked_tokens"] for line in lines)
    return Merit(
        step=lines[-1]["step"],
        retrieval_utility=utility / max(1, num_masked_tokens),
        is_whole=len(lines) >= interval_steps,
    )


def _not_finite(run_name: str, step: int, loss: float, norm: float) -> TrainingError:
    return TrainingError(
        where=f"run {run_name}, step {step}",
        found=f"a loss of {loss:g} whose gradient has the norm {norm:g}",
        expected="finite ones",
        action="Lower the learning rate; the last checkpoint is kept.",
    )


def run_error(error: BaseException, name: str) -> BaseException:
    """The error of ours that a rank raised, if there is one along the chain of causes; else what each rank raised."""
    for found in _causes(error):
        if isinstance(found, RealmError):
            return found
        for inner in _failures_of_ranks(found).values():
            if isinstance(inner, RealmError):
                return inner
    error = getattr(error, "controller_failure", None) or error  # what Ray Train's controller met
    return TrainingError(
        where=f"run {name}",
        found=_what_ranks_raised(_failures_of_ranks(error)) or _one_line(error),
        expected="ranks that live",
        action="Run the command again: it goes on from the last checkpoint. --debug shows the whole error.",
    )


def _failures_of_ranks(error: BaseException) -> dict[int, BaseException]:
    failures: dict[int, BaseException] = getattr(error, "worker_failures", None) or {}
    return failures


def _what_ranks_raised(failures: dict[int, BaseException]) -> str:
    named = [f"rank {rank}: {_one_line(failures[rank])}" for rank in sorted(failures)[:MAX_NAMED_RANKS]]
    left = len(failures) - len(named)
    return "; ".join([*named, *([f"{left} more ranks"] if left else [])])


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _causes(error: BaseException | None) -> list[BaseException]:
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return chain
