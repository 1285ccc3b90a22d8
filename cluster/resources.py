"""What each kind of process asks of Ray: the one place where resources are written down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from realm_core.engines.precision import TrainingPrecisionChoice, resolve_precision
from realm_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from realm_core.engines.precision import TrainingPrecision

Device = Literal["cpu", "cuda"]
DeviceChoice = Literal["auto", "cpu", "cuda"]

MAX_EMBEDDING_THREADS = 8
"""Of one embedding actor: more threads share a batch badly, another actor uses them better."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeSize:
    """What a node of the cluster has in all, in use or not."""

    cpus: float
    gpus: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingPlan:
    """Resources of the embedding actors; all of them ask for the same."""

    num_workers: int | None
    """At most so many; None: as many as the cluster's nodes hold, and more when nodes join."""
    cpus: float
    gpus: float
    threads: int

    @property
    def device(self) -> Device:
        """Where the engine runs."""
        return "cuda" if self.gpus else "cpu"

    def options(self) -> dict[str, Any]:
        """Ray options of an embedding actor."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}

    def num_wanted(self, nodes: Sequence[NodeSize]) -> int:
        """Actors to ask for, given the nodes that are there now."""
        if self.num_workers is not None:
            return self.num_workers
        if self.gpus:
            return sum(int(node.gpus // self.gpus) for node in nodes)
        return sum(int(node.cpus // self.cpus) for node in nodes)


@dataclass(frozen=True, kw_only=True, slots=True)
class ResourcePlan:
    """Resources of each kind of actor, sized so that all of them fit the cluster at the same time.

    Logical CPUs are slots for placement; the compute threads of a process are `threads`, set by the process itself.
    """

    embedding: EmbeddingPlan
    precision: TrainingPrecision
    """Of embedding and training."""
    trainer_workers: int
    trainer_cpus: float
    trainer_gpus: float
    trainer_threads: int

    def trainer_resources(self) -> dict[str, float]:
        """Resources of one rank, as Ray Train spells them."""
        gpu = {"GPU": self.trainer_gpus} if self.trainer_gpus else {}
        return {"CPU": self.trainer_cpus, **gpu}


TRAINER_NICENESS = 4
"""Added to a trainer rank's niceness on CPUs: where cores are shared, it yields to embedding while a refresh runs.
Equal shares would make the refresh, and with it the staleness of every step, half as long again."""

LIGHT_OPTIONS: dict[str, Any] = {"num_cpus": 0}
"""Router, shard servers, refresher, example generators: mostly waiting, or bursts that a search needs at once."""


def shard_options(num_bytes: int) -> dict[str, Any]:
    """Ray options of an index shard's process: placed where its bytes are free, replicas on different nodes."""
    memory = {"memory": num_bytes} if num_bytes else {}
    return {**LIGHT_OPTIONS, **memory, "max_restarts": -1, "max_concurrency": 4, "scheduling_strategy": "SPREAD"}


def plan_embedding(
    nodes: Sequence[NodeSize],
    *,
    num_workers: int | None = None,
    threads_per_worker: int | None = None,
    device: DeviceChoice = "auto",
) -> EmbeddingPlan:
    """Divides a cluster between embedding actors that have it to themselves.

    `auto` means GPUs if any node has one; then each actor takes a whole one. On CPUs an actor takes as many cores as it
    has threads: the smallest node's, at most 8, so that every node is filled; or, where a number of actors is asked
    for, an equal share of all cores.
    """
    gpu_nodes = [node for node in nodes if node.gpus >= 1]
    if device == "cuda" or (device == "auto" and gpu_nodes):
        return _plan_gpu_embedding(gpu_nodes, num_workers, threads_per_worker)
    cores = [node.cpus for node in nodes if node.cpus > 0] or [1.0]
    share = min(cores) if num_workers is None else min(max(cores), sum(cores) / num_workers)
    threads = threads_per_worker or _threads(share)
    return EmbeddingPlan(num_workers=num_workers, cpus=min(threads, max(cores)), gpus=0.0, threads=threads)


def _plan_gpu_embedding(
    gpu_nodes: Sequence[NodeSize], num_workers: int | None, threads_per_worker: int | None
) -> EmbeddingPlan:
    """One CPU slot per GPU, or an equal share where a node has fewer; the cores are shared out as threads."""
    cores_per_gpu = min((node.cpus / node.gpus for node in gpu_nodes), default=1.0)
    cpus = math.floor(1000 * min(1.0, cores_per_gpu)) / 1000
    threads = threads_per_worker or _threads(cores_per_gpu)
    return EmbeddingPlan(num_workers=num_workers, cpus=cpus, gpus=1.0, threads=threads)


def _threads(cores: float) -> int:
    return max(1, min(MAX_EMBEDDING_THREADS, int(cores)))


def plan_resources(
    *,
    num_cpus: float,
    num_gpus: float,
    embedding_workers: int,
    trainer_workers: int,
    precision: TrainingPrecisionChoice,
    device: DeviceChoice = "auto",
) -> ResourcePlan:
    """Divides a cluster between embedding and training.

    Where there are GPUs, each worker gets one, or beside a single rank an equal share of one. Each gets one CPU slot
    where there are two a worker, else an equal share of half the slots: the other half is for the short tasks of ingest
    and index. The cores are shared out as threads: all to the one kind that runs, or half to training and all to
    embedding, which pauses between refreshes; more threads than cores would mostly wait for each other.

    Raises `UsageError` where GPUs are asked for or there, and too few.
    """
    workers = embedding_workers + trainer_workers
    gpus = 0.0
    if device == "cuda" or (device == "auto" and num_gpus > 0):
        gpus = _gpus_each(num_gpus, embedding_workers, trainer_workers)
    cpus = 1.0 if num_cpus >= 2 * workers else math.floor(1000 * num_cpus / 2 / workers) / 1000
    embedding = EmbeddingPlan(
        num_workers=embedding_workers,
        cpus=cpus,
        gpus=gpus,
        threads=max(1, int(num_cpus // max(1, embedding_workers))),
    )
    return ResourcePlan(
        embedding=embedding,
        precision=resolve_precision(precision, on_gpu=gpus > 0),
        trainer_workers=trainer_workers,
        trainer_cpus=cpus,
        trainer_gpus=gpus,
        trainer_threads=max(1, int(num_cpus / (2 if embedding_workers else 1) // max(1, trainer_workers))),
    )


def _gpus_each(num_gpus: float, embedding_workers: int, trainer_workers: int) -> float:
    workers = embedding_workers + trainer_workers
    if num_gpus >= workers:
        return 1.0
    if num_gpus >= 1 and trainer_workers <= 1:
        return math.floor(1000 / math.ceil(workers / num_gpus)) / 1000
    raise UsageError(
        where="resources of the run",
        found=f"{num_gpus:g} GPUs in the cluster",
        expected=f"{workers}, one for each of {trainer_workers} ranks and {embedding_workers} embedding actors; or at "
        "least one, for a single rank and embedding actors that share it",
        action="Use fewer ranks or embedding actors, add nodes, or train on CPUs with --device cpu.",
    )
