"""Puts the searches of many callers together into batches, and what they find apart again.

A search that comes while nothing is being searched starts at once. While batches are under way, what comes meanwhile
waits for the next one: the busier the service, the larger its batches, and no clock makes a lone caller wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from realm_core.errors import DeadlineExceededError, OverloadedError
from realm_core.index.searcher import SearchHits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Facts = TypeVar("Facts")
"""What is said of a whole batch: which snapshot it was answered from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchLimits:
    """How much is searched and how much may wait."""

    max_queries: int = 512
    """Of one batch; a search with more is a batch of its own."""
    max_waiting_queries: int = 16_384
    """Beyond so many a search is refused, so that no caller waits for what cannot be done in time."""
    max_batches: int = 2
    """Under way at a time: while the shards search one, the next is sent and the last one merged."""


@dataclass(eq=False, slots=True)
class _Waiting:
    queries_BD: np.ndarray
    num_hits: int
    deadline: float
    result: asyncio.Future[tuple[SearchHits, object]]

    @property
    def shape(self) -> tuple[int, int]:
        """Searches of the same width and number of hits go into one batch."""
        return self.queries_BD.shape[1], self.num_hits


class Batcher(Generic[Facts]):
    """Runs in one event loop."""

    def __init__(
        self,
        search: Callable[[np.ndarray, int, float], Awaitable[tuple[SearchHits, Facts]]],
        limits: BatchLimits | None = None,
    ) -> None:
        """`search(queries_BD, num_hits, deadline)` answers a batch; the deadline is of the event loop's clock."""
        self._search = search
        self._limits = limits or BatchLimits()
        self._waiting: deque[_Waiting] = deque()
        self._num_waiting_queries = 0
        self._running: set[asyncio.Task[None]] = set()

    @property
    def num_waiting_queries(self) -> int:
        """That no batch has taken up yet."""
        return self._num_waiting_queries

    async def submit(self, queries_BD: np.ndarray, num_hits: int, deadline_seconds: float) -> tuple[SearchHits, Facts]:
        """The hits of one caller's queries, and the facts of the batch they were in.

        Raises:
            OverloadedError: too many queries wait already.
            DeadlineExceededError: no answer in time.
            RealmError: what the search of the batch raised.
        """
        if self._num_waiting_queries + len(queries_BD) > self._limits.max_waiting_queries and self._waiting:
            raise self._overloaded()
        loop = asyncio.get_running_loop()
        waiting = _Waiting(queries_BD, num_hits, loop.time() + deadline_seconds, loop.create_future())
        self._waiting.append(waiting)
        self._num_waiting_queries += len(queries_BD)
        self._start_batches()
        try:
            async with asyncio.timeout(deadline_seconds):
                return await waiting.result  # type: ignore[return-value]
        except TimeoutError:
            raise too_late(deadline_seconds) from None

    def _start_batches(self) -> None:
        while len(self._running) < self._limits.max_batches and (batch := self._take()):
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._start_batches()

    def _take(self) -> list[_Waiting]:
        """The next batch: the one that waited longest, and all of its shape behind it that have room."""
        batch: list[_Waiting] = []
        passed_over: list[_Waiting] = []
        num_queries = 0
        while self._waiting:
            waiting = self._waiting.popleft()
            if waiting.result.done():  # its caller gave up
                self._num_waiting_queries -= len(waiting.queries_BD)
            elif not batch or (
                waiting.shape == batch[0].shape and num_queries + len(waiting.queries_BD) <= self._limits.max_queries
            ):
                batch.append(waiting)
                num_queries += len(waiting.queries_BD)
            else:
                passed_over.append(waiting)
            if num_queries >= self._limits.max_queries:
                break
        self._waiting.extendleft(reversed(passed_over))
        self._num_waiting_queries -= num_queries
        return batch

    async def _run(self, batch: list[_Waiting]) -> None:
        queries_BD = batch[0].queries_BD if len(batch) == 1 else np.concatenate([w.queries_BD for w in batch])
        try:
            hits, facts = await self._search(queries_BD, batch[0].num_hits, max(w.deadline for w in batch))
        except BaseException as error:
            for waiting in batch:
                if not waiting.result.done():
                    waiting.result.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        start = 0
        for waiting in batch:
            stop = start + len(waiting.queries_BD)
            if not waiting.result.done():
                waiting.result.set_result((_rows_of(hits, start, stop), facts))
            start = stop

    def _overloaded(self) -> OverloadedError:
        return OverloadedError(
            where="search",
            found=f"{self._num_waiting_queries:,} queries that wait already",
            expected=f"at most {self._limits.max_waiting_queries:,}",
            action="Send fewer at a time and try again; or serve with more replicas of each index shard.",
        )


def too_late(deadline_seconds: float) -> DeadlineExceededError:
    """The error for no answer in time."""
    return DeadlineExceededError(
        where="search",
        found=f"no answer from all shards in {deadline_seconds:g} s",
        expected="one by the caller's deadline",
        action="Allow more time: a shard that died is restarted meanwhile. `realm serve status` shows what is slow.",
    )


def _rows_of(hits: SearchHits, start: int, stop: int) -> SearchHits:
    return SearchHits(hits.relevances_BK[start:stop], hits.rows_BK[start:stop])
