"""One run over a list of parts: each is embedded once, whatever dies meanwhile."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError, RayTaskError

from cluster.calls import as_realm_error
from cluster.embedding_progress import EmbedProgress, RateMeter, share_of_peak
from cluster.embedding_workers import outcomes_of, ready_refs
from realm_core.engines.block_failures import error_of_run
from realm_core.engines.engine import Work
from realm_core.engines.part_queue import PartJob, PartQueue, in_working_order
from realm_core.errors import (
    ArtifactCorruptError,
    ArtifactMissingError,
    BlockError,
    EncoderError,
    GateError,
    RealmError,
    ServiceError,
    ServiceUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from cluster.embedding_workers import Worker, WorkerGroup
    from cluster.resources import EmbeddingPlan
    from realm_core.engines.part_embedder import EmbeddedPart
    from realm_core.storage.block_store import PartEntry

logger = logging.getLogger(__name__)

START_TIMEOUT_SECONDS = 300.0
"""Without any actor for so long, a run ends."""
ASK_SECONDS = 5.0
"""Between looks at the cluster for nodes that have joined."""
DEATHS_PER_WORKER = 8
MIN_DEATHS = 24
"""As many actors may die one after the other, with no part finished between, before a run ends: so many per actor
that was asked for, but no fewer than this. Lost nodes stay below it, an engine that kills its process does not."""

MAX_HOPELESS_PARTS = 8
"""So many parts one after the other of which not one block could be embedded end a run: it is the encoder then."""
ONE_PART_ERRORS = (BlockError, ArtifactMissingError, ArtifactCorruptError, GateError)
"""Errors that are about one part: the others are embedded before the run ends. Any other error ends it at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedResult:
    """Embeddings of all parts, in the order of the list; `num_made + num_reused = len(parts)`."""

    parts: tuple[EmbeddedPart, ...]
    num_retries: int
    seconds: float
    """Of the whole run."""
    start_up_seconds: float
    """Until the first actor was ready."""
    share_of_peak: float | None
    """Of what the devices could have done from then on; None when unknown."""

    @property
    def num_reused(self) -> int:
        """Parts whose embeddings were there already."""
        return sum(part.was_reused for part in self.parts)

    @property
    def num_made(self) -> int:
        """Parts that were embedded, damaged ones included."""
        return len(self.parts) - self.num_reused

    @property
    def num_mended(self) -> int:
        """Parts that were embedded because what was there was damaged."""
        return sum(part.outcome == "mended" for part in self.parts)

    @property
    def num_rows(self) -> int:
        """Rows of all parts."""
        return sum(part.part.num_rows for part in self.parts)

    @property
    def work(self) -> Work:
        """What was embedded."""
        return sum((part.work for part in self.parts), Work())

    @property
    def embedding_seconds(self) -> float:
        """From the first actor that was ready to the end."""
        return self.seconds - self.start_up_seconds


class EmbeddingRun:
    """The loop's state; `step` until `is_over`, then `result`."""

    def __init__(
        self,
        workers: WorkerGroup,
        plan: EmbeddingPlan,
        parts: Sequence[PartEntry],
        encoder_digest: str,
        *,
        there: Collection[int],
        groups: Sequence[int] | None = None,
        on_part: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._workers, self._plan = workers, plan
        self._parts, self._encoder_digest = parts, encoder_digest
        self._queue: PartQueue[Worker] = PartQueue(in_working_order(parts, there=there, groups=groups))
        self._at_work: dict[Any, tuple[Worker, PartJob]] = {}
        self._done: dict[int, EmbeddedPart] = {}
        self._on_part = on_part
        self._failed: list[RealmError] = []
        self._num_hopeless_parts = 0
        self._ending: BaseException | None = None
        self._deaths_in_a_row = 0
        self._last_death = ""
        self._begun = self._alive_at = time.monotonic()
        self._ready_at: float | None = None
        self._ask_at = self._watch_at = self._begun
        self._counts = _RowCounts(sum(part.num_rows for part in parts))
        for worker in workers.ready:
            self._add(worker)

    @property
    def is_over(self) -> bool:
        """True when no part waits and none is being embedded."""
        return self._queue.num_unfinished == 0

    def step(self, timeout_seconds: float) -> None:
        """Hands out what can be handed out, waits for something to happen, and takes it in."""
        self._ask_for_workers()
        for worker, job in self._queue.hand_out():
            self._at_work[worker.actor.embed.remote(job.part, self._encoder_digest)] = (worker, job)
        refs = ready_refs([*self._at_work, *self._workers.starting_refs()], timeout_seconds=timeout_seconds)
        for ref in refs:
            if self._workers.is_starting(ref):
                self._take_started(ref)
        outcomes = outcomes_of([ref for ref in refs if ref in self._at_work])
        for ref, outcome in sorted(outcomes, key=lambda pair: isinstance(pair[1], BaseException)):
            self._take_outcome(ref, outcome)  # what an actor finished before it died counts

    def watch(self) -> EmbedProgress:
        """Asks the actors how far they are, without waiting for answers; those of the time before are taken in."""
        for worker in self._workers.watch():
            self._lose(worker, "it does not answer")
        return self._counts.progress(self._workers, self._queue.num_retries)

    def result(self) -> EmbedResult:
        """What became of the parts.

        Raises:
            RealmError: what ended the run, or what parts failed with.
        """
        now = time.monotonic()
        if self._ending is not None:
            raise self._ending
        errors = [*self._failed, *(_part_kills_actors(job, self._last_death) for job in self._queue.given_up)]
        if errors:
            raise error_of_run(errors, num_embedded=len(self._done), num_parts=len(self._parts))
        return EmbedResult(
            parts=tuple(self._done[index] for index in range(len(self._parts))),
            num_retries=self._queue.num_retries,
            seconds=now - self._begun,
            start_up_seconds=(self._ready_at or now) - self._begun,
            share_of_peak=self._counts.share_of_peak(self._workers),
        )

    def _ask_for_workers(self) -> None:
        now = time.monotonic()
        if now >= self._ask_at and self._ending is None:
            self._workers.ask_for(self._queue.num_unfinished)
            self._ask_at = now + ASK_SECONDS
        if self._workers.ready:
            self._alive_at = now
        elif now - self._alive_at > START_TIMEOUT_SECONDS:
            self._end(_no_room(self._workers.num_asked_for, self._plan))

    def _take_started(self, ref: Any) -> None:  # noqa: ANN401 - refs are untyped
        try:
            worker = self._workers.take_started(ref)
        except Exception as error:  # noqa: BLE001 - raised again by `result`, when the parts in work are finished
            self._end(error)
            return
        if worker is None:
            self._count_death("it died while it started")
        else:
            self._add(worker)

    def _add(self, worker: Worker) -> None:
        self._ready_at = self._ready_at or time.monotonic()
        self._queue.add_worker(worker)
        self._counts.mark(self._workers)

    def _take_outcome(self, ref: Any, outcome: Any) -> None:  # noqa: ANN401
        if ref not in self._at_work:
            return  # its worker was lost a moment ago, and its part given out again
        worker, job = self._at_work[ref]
        if isinstance(outcome, RayError) and not isinstance(outcome, RayTaskError):
            self._lose(worker, str(outcome).strip().splitlines()[0])
            return
        del self._at_work[ref]
        self._queue.finish(worker, job)
        self._deaths_in_a_row = 0
        if isinstance(outcome, BaseException):
            self._take_error(as_realm_error(outcome), job.part)
        else:
            self._num_hopeless_parts = 0 if outcome.outcome != "reused" else self._num_hopeless_parts
            self._done[job.index] = replace(outcome, uids=outcome.uids.copy())  # frees Ray's memory, which is small
            self._counts.add_part(worker, outcome)
            self._on_part(job.index)

    def _take_error(self, error: BaseException, part: PartEntry) -> None:
        if isinstance(error, ONE_PART_ERRORS):
            self._failed.append(error)
            self._num_hopeless_parts += isinstance(error, BlockError) and len(error.rows) == part.num_rows
            if self._num_hopeless_parts >= MAX_HOPELESS_PARTS:
                self._end(_encoder_embeds_nothing(self._num_hopeless_parts, self._encoder_digest, error))
            else:
                logger.warning("%s: %s. The other parts are embedded first.", error.where, error.found)
        else:
            self._end(error if isinstance(error, RealmError) else _unexpected(error, part))

    def _lose(self, worker: Worker, how: str) -> None:
        self._at_work = {ref: (w, job) for ref, (w, job) in self._at_work.items() if w is not worker}
        self._queue.remove_worker(worker)
        self._workers.drop(worker)
        self._counts.mark(self._workers)
        self._count_death(how)

    def _count_death(self, how: str) -> None:
        self._ask_at = 0.0
        self._last_death = how
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row >= max(MIN_DEATHS, DEATHS_PER_WORKER * (self._workers.num_asked_for + 1)):
            self._end(_actors_die(self._deaths_in_a_row, how))

    def _end(self, error: BaseException) -> None:
        """Nothing more is handed out; what is being embedded is finished first, so that a rerun finds it done."""
        self._ending = self._ending or error
        self._queue.stop()


class _RowCounts:
    """Adds up the parts that are finished and what workers say of those they are at."""

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._meter = RateMeter()
        self._made = Work()
        self._rows_reused = 0
        self._rows_shown = 0
        self._has_begun = False

    def mark(self, workers: WorkerGroup) -> Work:
        """Notes the work done by now, and the devices that go on with it; returns it."""
        work = self._made + self._in_work(workers)
        self._has_begun = self._has_begun or bool(workers.ready)
        if self._has_begun:  # what comes before the first actor is start-up
            self._meter.add(time.monotonic(), work, workers.peak_flops_per_second)
        return work

    def add_part(self, worker: Worker, part: EmbeddedPart) -> None:
        """A part is finished."""
        self._made += part.work
        worker.finished += part.work
        self._rows_reused += part.part.num_rows if part.was_reused else 0

    def share_of_peak(self, workers: WorkerGroup) -> float | None:
        """Over all of the run."""
        self.mark(workers)
        return share_of_peak(self._made.num_flops, self._meter.peak_flops)

    def progress(self, workers: WorkerGroup, num_retries: int) -> EmbedProgress:
        """Where the run is now."""
        work = self.mark(workers)
        lately, seconds = self._meter.lately()
        per_second = 1 / seconds if seconds > 0 else 0.0
        self._rows_shown = min(self._num_rows, max(self._rows_shown, self._rows_reused + work.num_rows))
        return EmbedProgress(
            rows_done=self._rows_shown,
            rows_per_second=max(0.0, lately.num_rows * per_second),
            tokens_per_second=max(0.0, lately.num_tokens * per_second),
            share_of_peak=share_of_peak(lately.num_flops * per_second, workers.peak_flops_per_second),
            num_ready=len(workers.ready),
            num_asked_for=workers.num_asked_for,
            num_retries=num_retries,
        )

    @staticmethod
    def _in_work(workers: WorkerGroup) -> Work:
        """An answer may be older than the last finished part."""
        in_work = (worker.progress.work - worker.finished for worker in workers.ready)
        return sum((work for work in in_work if work.num_rows > 0), Work())


def _unexpected(error: BaseException, part: PartEntry) -> ServiceError:
    cause = getattr(error, "cause", None) or error
    wrapped = ServiceError(
        where=f"part {part.digest[:12]} ({part.num_rows} blocks from block {part.first_block_id})",
        found=f"its embedding actor failed with {type(cause).__name__}: {' '.join(str(cause).split())}",
        expected="embeddings",
        action="Run the command again, which goes on; --debug shows where it failed.",
    )
    wrapped.__cause__ = error
    return wrapped


def _encoder_embeds_nothing(num_parts: int, encoder_digest: str, error: RealmError) -> EncoderError:
    return EncoderError(
        where=f"encoder {encoder_digest[:12]}",
        found=f"{num_parts} parts one after the other without one usable embedding; the last: {error.found}",
        expected="embeddings that are finite and not zero",
        action="Look at the encoder's weights, or take another --precision or device; what was embedded is kept.",
    )


def _no_room(num_asked_for: int, plan: EmbeddingPlan) -> ServiceUnavailableError:
    has = {name: ray.cluster_resources().get(name, 0.0) for name in ("CPU", "GPU")}
    return ServiceUnavailableError(
        where="embedding actors",
        found=f"none of {num_asked_for} has started in {START_TIMEOUT_SECONDS:g} s; the cluster has "
        f"{has['CPU']:g} CPUs and {has['GPU']:g} GPUs in all",
        expected=f"room for at least one with {plan.cpus:g} CPUs and {plan.gpus:g} GPUs",
        action="Look at `ray status` for what takes the room, or ask for less with --threads-per-worker.",
    )


def _actors_die(num_deaths: int, how: str) -> ServiceUnavailableError:
    return ServiceUnavailableError(
        where="embedding actors",
        found=f"{num_deaths} died one after the other and finished no part ({how})",
        expected="actors that live through a part",
        action="Look for memory exhaustion in Ray's logs; a rerun goes on with the parts that are missing.",
    )


def _part_kills_actors(job: PartJob, how: str) -> ServiceUnavailableError:
    return ServiceUnavailableError(
        where=f"part {job.part.digest[:12]} ({job.part.num_rows} blocks from block {job.part.first_block_id})",
        found=f"its embedding actor died {job.num_deaths} times ({how})",
        expected="an actor that lives through it",
        action="Look for memory exhaustion in Ray's logs; a rerun goes on with the parts that are missing.",
    )
