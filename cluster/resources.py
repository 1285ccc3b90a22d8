"""What each kind of process asks of Ray: the one place where resources are written down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from realm_core.engines.precision import PrecisionChoice, resolve_precision

if TYPE_CHECKING:
    from realm_core.engines.precision import Precision


@dataclass(frozen=True, kw_only=True, slots=True)
class ResourcePlan:
    """Resources of each kind of actor, sized so that all of them fit the cluster at the same time.

    Logical CPUs are slots for placement; the compute threads of a process are `threads`, set by the process itself.
    """

    embedding_workers: int
    embedding_cpus: float
    embedding_gpus: float
    embedding_threads: int
    precision: Precision
    """Of embedding and training."""
    trainer_workers: int
    trainer_cpus: float
    trainer_gpus: float
    trainer_threads: int

    def embedding_options(self) -> dict[str, Any]:
        """Ray options of an embedding actor."""
        return {"num_cpus": self.embedding_cpus, "num_gpus": self.embedding_gpus}

    def trainer_resources(self) -> dict[str, float]:
        """Resources of one rank, as Ray Train spells them."""
        gpu = {"GPU": self.trainer_gpus} if self.trainer_gpus else {}
        return {"CPU": self.trainer_cpus, **gpu}


TRAINER_NICENESS = 4
"""Added to a trainer rank's niceness on CPUs: where cores are shared, it yields to embedding while a refresh runs.
Equal shares would make the refresh, and with it the staleness of every step, half as long again."""

LIGHT_OPTIONS: dict[str, Any] = {"num_cpus": 0}
"""Router, shard servers, refresher, example generators: mostly waiting, or bursts that a search needs at once."""


def plan_resources(
    *, num_cpus: float, num_gpus: float, embedding_workers: int, trainer_workers: int, precision: PrecisionChoice
) -> ResourcePlan:
    """Divides a cluster between embedding and training.

    With GPUs for all, each worker gets one. Each gets one CPU slot where there are two a worker, else an equal share of
    half the slots: the other half is for the short tasks of ingest and index. The cores are shared out as threads: all
    to the one kind that runs, or half to training and all to embedding, which pauses between refreshes; more threads
    than cores would mostly wait for each other.
    """
    workers = embedding_workers + trainer_workers
    on_gpu = num_gpus >= workers
    cpus = 1.0 if num_cpus >= 2 * workers else math.floor(1000 * num_cpus / 2 / workers) / 1000
    return ResourcePlan(
        embedding_workers=embedding_workers,
        embedding_cpus=cpus,
        embedding_gpus=1.0 if on_gpu else 0.0,
        embedding_threads=max(1, int(num_cpus // max(1, embedding_workers))),
        precision=resolve_precision(precision, on_gpu=on_gpu),
        trainer_workers=trainer_workers,
        trainer_cpus=cpus,
        trainer_gpus=1.0 if on_gpu else 0.0,
        trainer_threads=max(1, int(num_cpus / (2 if embedding_workers else 1) // max(1, trainer_workers))),
    )
