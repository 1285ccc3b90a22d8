"""Which worker embeds which part next, and what becomes of a part whose worker dies.

Workers are known by any key; nothing here knows what they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from realm_core.storage.block_store import PartEntry

PARTS_PER_WORKER = 2
"""One is encoded while the next is read or the last one written."""
MAX_DEATHS_PER_PART = 8
"""A part whose worker died this often is given up, if most workers that died had it: it is the likely cause."""
MAX_DEATHS_IN_ANY_CASE = 24
"""Where several parts kill workers, none of them has most deaths."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class PartJob:
    """A part to be embedded."""

    index: int
    """Place of the part in the list that was given."""
    part: PartEntry
    num_deaths: int = 0
    """Workers that died while they had it."""


def in_working_order(
    parts: Sequence[PartEntry], *, there: Collection[int], groups: Sequence[int] | None = None
) -> list[PartJob]:
    """Parts whose embeddings are there (by index) first, as they only have to be checked; the others largest first.

    Where each part has a group, one group goes after the other, so that what waits for a whole group waits least.
    """
    groups = groups or [0] * len(parts)
    order = sorted(range(len(parts)), key=lambda i: (i not in there, groups[i], -parts[i].num_tokens, i))
    return [PartJob(index, parts[index]) for index in order]


def next_jobs(waiting: Sequence[PartJob], held: Mapping[Key, Collection[PartJob]]) -> list[tuple[Key, PartJob]]:
    """Who takes what now: from the front of `waiting`, to workers that hold less than they may.

    A worker without a part takes one. A second one, which it reads while it encodes the first, it takes only while at
    least as many parts wait as there are workers: later it would wait there while another worker has nothing to do.
    A part whose worker has died is embedded alone, so that a part that kills workers is told from its neighbour.
    """
    queue = deque(waiting)
    jobs = {worker: list(parts) for worker, parts in held.items()}
    given: list[tuple[Key, PartJob]] = []
    for worker, parts in jobs.items():
        if queue and not parts:
            parts.append(queue.popleft())
            given.append((worker, parts[0]))
    for worker, parts in jobs.items():
        if len(queue) < len(jobs):
            break
        first_safe = next((job for job in queue if not job.num_deaths), None)
        if first_safe is not None and len(parts) == 1 and not parts[0].num_deaths:
            queue.remove(first_safe)
            given.append((worker, first_safe))
    return given


def is_to_blame(num_deaths: int, *, num_deaths_of_all: int) -> bool:
    """True for a part that is given up: of all workers that died in the run, so many had it."""
    is_suspect = num_deaths >= MAX_DEATHS_PER_PART and 2 * num_deaths >= num_deaths_of_all
    return is_suspect or num_deaths >= MAX_DEATHS_IN_ANY_CASE


class PartQueue(Generic[Key]):
    """The parts of a run: waiting, held by a worker, finished, or given up."""

    def __init__(self, jobs: Iterable[PartJob]) -> None:
        self._waiting = deque(jobs)
        self._held: dict[Key, dict[int, PartJob]] = {}
        self.num_retries = 0
        """Parts that were given out again."""
        self.given_up: list[PartJob] = []
        self._is_stopped = False
        self._num_deaths = 0

    @property
    def num_unfinished(self) -> int:
        """Parts that wait or are held."""
        return len(self._waiting) + self.num_held

    @property
    def num_held(self) -> int:
        """Parts that a worker has."""
        return sum(len(jobs) for jobs in self._held.values())

    def add_worker(self, worker: Key) -> None:
        """A worker is there and may have parts."""
        self._held.setdefault(worker, {})

    def hand_out(self) -> list[tuple[Key, PartJob]]:
        """Gives parts to workers, see `next_jobs`."""
        given = next_jobs(self._waiting, {worker: jobs.values() for worker, jobs in self._held.items()})
        for worker, job in given:
            self._waiting.remove(job)
            self._held[worker][job.index] = job
        return given

    def finish(self, worker: Key, job: PartJob) -> None:
        """The worker is done with a part, for good or ill."""
        del self._held[worker][job.index]

    def remove_worker(self, worker: Key) -> None:
        """The worker died: its parts come after all others, or are given up.

        Last, so that a part that kills workers holds up no other, and that workers which are killed at random are not
        killed again and again with the same part.
        """
        self._num_deaths += 1
        for job in self._held.pop(worker, {}).values():
            self._again(job)

    def stop(self) -> None:
        """Hands out nothing more, not even parts that are lost from now on."""
        self._is_stopped = True
        self._waiting.clear()

    def _again(self, job: PartJob) -> None:
        job = replace(job, num_deaths=job.num_deaths + 1)
        if is_to_blame(job.num_deaths, num_deaths_of_all=self._num_deaths):
            self.given_up.append(job)
        elif not self._is_stopped:
            self.num_retries += 1
            self._waiting.append(job)
