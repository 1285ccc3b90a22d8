"""The embedding actors of a pool: asked for, starting, ready, dead."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from cluster.calls import as_realm_error
from cluster.embedding_worker import EmbeddingActor
from cluster.resources import NodeSize
from realm_core.engines.engine import Work
from realm_core.engines.part_embedder import EmbedderProgress
from realm_core.errors import ServiceUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.resources import EmbeddingPlan
    from realm_core.engines.engine import EngineLoader

GET_TIMEOUT_SECONDS = 60.0
"""For values that are there and only have to be copied to this node."""
MAX_ASKED_AT_ONCE = 16
"""Actors that a look at the progress asks: each question costs the driver and the actor a millisecond or two."""
SILENT_SECONDS = 120.0
"""An actor that has not answered for so long is taken for dead: its process hangs or was stopped. Answering takes no
time while it embeds."""
IDLE_SECONDS = 0.2
"""A pause where there is nothing to wait for, such as a cluster without nodes."""


@dataclass(eq=False)
class Worker:
    """An actor, as the driver knows it."""

    actor: Any
    encoder_digest: str | None
    """Whose engine it has loaded, or is loading."""
    progress: EmbedderProgress = field(default_factory=EmbedderProgress)
    """As it was a moment ago."""
    finished: Work = field(default_factory=Work)
    """Of the parts that it has delivered; what `progress` has beyond it is of parts in work."""
    watching: Any = None
    """The answer that is awaited; a busy actor is not asked twice."""
    asked_at: float = 0.0
    """When it was asked last."""


class WorkerGroup:
    """Actors come and go while it lives; those that find no room stay asked for, which is what Ray scales up on."""

    def __init__(self, store_url: str, plan: EmbeddingPlan, loader: EngineLoader, precision: str) -> None:
        self._arguments = (store_url, loader, precision)
        self._plan = plan
        self._num_wanted = 0
        self._encoder_digest: str | None = None
        self._starting: dict[Any, Worker] = {}
        self.ready: set[Worker] = set()

    @property
    def num_asked_for(self) -> int:
        """Actors that are ready, starting, or waiting for room."""
        return len(self.ready) + len(self._starting)

    @property
    def peak_flops_per_second(self) -> float:
        """Of all devices in use."""
        return sum(worker.progress.peak_flops_per_second for worker in self.ready)

    def ask_for(self, most: int) -> None:
        """Asks for as many actors as the plan wants of the cluster as it is now, but at most for so many.

        What was wanted once goes on being wanted: an actor whose node was lost waits for the next one.
        """
        self._num_wanted = max(self._num_wanted, self._plan.num_wanted(cluster_nodes()))
        for _ in range(self.num_asked_for, min(most, self._num_wanted)):
            actor = EmbeddingActor.options(**self._plan.options()).remote(*self._arguments)
            self._start(Worker(actor, self._encoder_digest))

    def use_encoder(self, encoder_digest: str) -> None:
        """From now on an actor is ready when it has loaded this encoder's engine, whatever it was loading before."""
        self._encoder_digest = encoder_digest
        others = [worker for worker in self.ready if worker.encoder_digest != encoder_digest]
        self.ready.difference_update(others)
        others += [worker for worker in self._starting.values() if worker.encoder_digest != encoder_digest]
        self._starting = {ref: w for ref, w in self._starting.items() if w.encoder_digest == encoder_digest}
        for worker in others:
            worker.encoder_digest = encoder_digest
            self._start(worker)

    def starting_refs(self) -> list[Any]:
        """To wait on for actors that become ready."""
        return list(self._starting)

    def is_starting(self, ref: Any) -> bool:  # noqa: ANN401 - refs are untyped
        """True for one of `starting_refs`."""
        return ref in self._starting

    def take_started(self, ref: Any) -> Worker | None:  # noqa: ANN401
        """The actor that has become ready, or None when it died on the way.

        Raises:
            RealmError: its engine could not be loaded, which would be so for every actor.
        """
        worker = self._starting.pop(ref)
        try:
            worker.progress = ray.get(ref, timeout=GET_TIMEOUT_SECONDS)
        except RayTaskError as error:
            self.drop(worker)
            raise as_realm_error(error) from error
        except RayError as error:
            self.drop(worker)
            if isinstance(error, RayActorError) and error.actor_init_failed:
                raise _cannot_start(error) from error
            return None
        self.ready.add(worker)
        return worker

    def take_all_started(self, *, timeout_seconds: float) -> None:
        """Waits for an actor to become ready, and takes all that are; see `take_started`."""
        for ref in ready_refs(self.starting_refs(), timeout_seconds=timeout_seconds):
            self.take_started(ref)

    def drop(self, worker: Worker) -> None:
        """Forgets an actor and ends it, if it is not dead already."""
        self.ready.discard(worker)
        ray.kill(worker.actor)

    def watch(self) -> list[Worker]:
        """Takes the answers that have come and asks again; returns actors that are dead, or silent for too long."""
        now = time.monotonic()
        asked = {worker.watching: worker for worker in self.ready if worker.watching is not None}
        dead = []
        for ref, outcome in outcomes_of(ready_refs(list(asked), timeout_seconds=0.0)):
            worker = asked.pop(ref)
            worker.watching = None
            if isinstance(outcome, BaseException):
                dead.append(worker)
            else:
                worker.progress = outcome
        dead += [worker for worker in asked.values() if now - worker.asked_at > SILENT_SECONDS]
        idle = [worker for worker in self.ready if worker.watching is None]
        for worker in sorted(idle, key=lambda worker: worker.asked_at)[:MAX_ASKED_AT_ONCE]:
            worker.watching, worker.asked_at = worker.actor.progress.remote(), now
        return dead

    def close(self) -> None:
        """Ends all actors."""
        for worker in [*self.ready, *self._starting.values()]:
            ray.kill(worker.actor)
        self.ready.clear()
        self._starting.clear()

    def _start(self, worker: Worker) -> None:
        self._starting[worker.actor.start.remote(worker.encoder_digest)] = worker


def cluster_nodes() -> list[NodeSize]:
    """The nodes that are there now."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [NodeSize(cpus=float(r.get("CPU", 0.0)), gpus=float(r.get("GPU", 0.0))) for r in resources]


def ready_refs(refs: Sequence[Any], *, timeout_seconds: float) -> list[Any]:
    """All references whose values are there, after waiting for the first of them."""
    if not refs:
        time.sleep(min(timeout_seconds, IDLE_SECONDS))
        return []
    first, rest = ray.wait(refs, num_returns=1, timeout=timeout_seconds)
    if not (first and rest):
        return list(first)
    others, _ = ray.wait(rest, num_returns=len(rest), timeout=0)
    return [*first, *others]


def outcomes_of(refs: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Each reference with its value or with the error that stands in its place; for values that are there."""
    if not refs:
        return []
    try:
        return list(zip(refs, ray.get(list(refs), timeout=GET_TIMEOUT_SECONDS), strict=True))
    except RayError as error:
        if len(refs) == 1:
            return [(refs[0], error)]
    half = len(refs) // 2
    return outcomes_of(refs[:half]) + outcomes_of(refs[half:])


def _cannot_start(error: RayActorError) -> ServiceUnavailableError:
    return ServiceUnavailableError(
        where="embedding actor",
        found=f"a process that cannot start ({str(error).strip().splitlines()[-1]})",
        expected="the same code and packages on every node",
        action="Look at the cluster's environment; nothing was lost.",
    )
