"""The shards of a snapshot as Ray tasks: each is built, and searched at many settings, when its parts are embedded."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from cluster.calls import as_realm_error, dead_process
from cluster.embedding_workers import cluster_nodes, ready_refs
from realm_core.index.shard_building import BuiltShard, build_shard
from realm_core.index.shards import ShardSearcher
from realm_core.index.tuning import RECALL_AT, ShardMeasurement, has_leaves, measure
from realm_core.storage.files import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from realm_core.index.searcher import SearchHits
    from realm_core.index.setting import SearchSetting
    from realm_core.index.shards import ShardPlan
    from realm_core.storage.snapshots import ShardEntry

NUM_GATE_HITS = max(RECALL_AT)
SHARD_CPUS = 0.25
BYTES_PER_SHARD_ROW = 450
"""Of a `faiss` shard while it is built: what is written, 296 at 128 dimensions, and the training sample."""
MAX_TASK_RETRIES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredShard:
    """A shard, and what it finds of its own exact hits with each setting up to the first that finds enough."""

    built: BuiltShard
    measurements: list[ShardMeasurement]


@ray.remote
def _build_and_measure(
    store_url: str,
    plan: ShardPlan,
    gate_queries_BD: np.ndarray,
    settings: Sequence[SearchSetting],
    enough_recall: float,
    threads: int,
) -> MeasuredShard:
    _use_threads(threads)
    built = build_shard(Store(store_url), plan, gate_queries_BD, num_hits=NUM_GATE_HITS)
    measurements = _measure(store_url, built.entry, gate_queries_BD, built.exact, settings, enough_recall, threads)
    return MeasuredShard(built=built, measurements=measurements)


@ray.remote
def _measure_again(
    store_url: str,
    entry: ShardEntry,
    gate_queries_BD: np.ndarray,
    exact: SearchHits,
    settings: Sequence[SearchSetting],
    threads: int,
) -> list[ShardMeasurement]:
    return _measure(store_url, entry, gate_queries_BD, exact, settings, math.inf, threads)


class ShardBuilds:
    """Starts the build of a shard when the last of its parts is there; several go on side by side."""

    def __init__(
        self,
        store: Store,
        plans: Sequence[ShardPlan],
        gate_queries_BD: np.ndarray,
        settings: Sequence[SearchSetting],
        enough_recall: float,
    ) -> None:
        """Starts nothing yet; each shard is measured with these settings, in their order, until it finds enough."""
        self._store, self._plans, self._settings, self._enough_recall = store, plans, settings, enough_recall
        self._queries = ray.put(gate_queries_BD)
        self.shard_of_part = [shard for shard, plan in enumerate(plans) for _ in plan.parts]
        """For each part of the corpus, the number of its shard."""
        self._num_missing = [len(plan.parts) for plan in plans]
        self._refs: dict[int, Any] = {}
        self.first_started_at: float | None = None
        """By the monotonic clock."""

    def add_parts(self, indices: Iterable[int]) -> None:
        """These parts, by their place in the corpus, are embedded: each is to be told once."""
        complete = []
        for index in indices:
            shard = self.shard_of_part[index]
            self._num_missing[shard] -= 1
            if not self._num_missing[shard]:
                complete.append(shard)
        if complete:
            self._start(complete)

    def __len__(self) -> int:
        return len(self._plans)

    @property
    def num_done(self) -> int:
        """Shards that are built and measured, or failed."""
        return len(self._refs) - len(self._unfinished())

    @property
    def num_bytes_to_come(self) -> int:
        """Memory that the shards which are not done ask of Ray, those included that have it already."""
        unfinished = self._unfinished()
        return sum(
            _bytes_of(plan)
            for shard, plan in enumerate(self._plans)
            if shard not in self._refs or self._refs[shard] in unfinished
        )

    def wait(self, progress: Callable[[int], None] = lambda _: None) -> list[MeasuredShard]:
        """All shards, in their order, when the last one is done; `progress` gets the number of those that are.

        Raises:
            RealmError: what the building of a shard raised.
        """
        assert len(self._refs) == len(self._plans), "every part was added"
        while unfinished := self._unfinished():
            progress(self.num_done)
            ready_refs(unfinished, timeout_seconds=1.0)
        progress(self.num_done)
        return values_of([self._refs[shard] for shard in range(len(self._plans))])

    def measure_again(
        self, shards: Sequence[MeasuredShard], settings: Sequence[SearchSetting]
    ) -> list[list[ShardMeasurement]]:
        """What the shards find with more settings."""
        task = _measure_again.options(num_cpus=SHARD_CPUS, max_retries=MAX_TASK_RETRIES)
        threads = _threads(len(shards))
        found: list[list[ShardMeasurement]] = values_of(
            [
                task.remote(self._store.url, shard.built.entry, self._queries, shard.built.exact, settings, threads)
                for shard in shards
            ]
        )
        return found

    def cancel(self) -> None:
        """Ends the tasks that are not done; what they have written is made whole by the next build, or is garbage."""
        for ref in self._unfinished():
            ray.cancel(ref)

    def _start(self, shards: Sequence[int]) -> None:
        self.first_started_at = self.first_started_at or time.monotonic()
        threads = _threads(len(self._unfinished()) + len(shards))
        for shard in shards:
            plan = self._plans[shard]
            task = _build_and_measure.options(num_cpus=SHARD_CPUS, memory=_bytes_of(plan), max_retries=MAX_TASK_RETRIES)
            self._refs[shard] = task.remote(
                self._store.url, plan, self._queries, self._settings, self._enough_recall, threads
            )

    def _unfinished(self) -> list[Any]:
        if not self._refs:
            return []
        return list(ray.wait(list(self._refs.values()), num_returns=len(self._refs), timeout=0)[1])


def values_of(refs: list[Any]) -> list[Any]:
    """What the tasks returned.

    Raises:
        RealmError: what one of them raised, or that its process died again and again.
    """
    try:
        return list(ray.get(refs))
    except RayTaskError as error:
        raise as_realm_error(error) from error
    except RayError as error:  # killed, out of memory, or its node is gone, again and again
        raise dead_process("building an index shard", error) from error


def _measure(
    store_url: str,
    entry: ShardEntry,
    gate_queries_BD: np.ndarray,
    exact: SearchHits,
    settings: Sequence[SearchSetting],
    enough_recall: float,
    threads: int,
) -> list[ShardMeasurement]:
    """Each setting on one core, so that seconds can be compared; several side by side where the index is mapped.

    The first whose own recall is enough is the last one. A shard that compares all rows finds the same with each
    setting, and is searched once.
    """
    if not has_leaves([entry]):
        _use_threads(1)
        [found] = measure(
            ShardSearcher(Store(store_url), entry, is_verified=True), gate_queries_BD, exact, settings[:1]
        )
        return [replace(found, setting=setting) for setting in settings]
    num_side_by_side = min(threads, len(settings)) if entry.kind == "faiss" else 1
    columns = [
        measure(
            ShardSearcher(Store(store_url), entry, is_verified=True),
            gate_queries_BD,
            exact,
            settings[first::num_side_by_side],
        )
        for first in range(num_side_by_side)
    ]
    measurements: list[ShardMeasurement] = []
    with ThreadPoolExecutor(num_side_by_side, "measure", initializer=_use_threads, initargs=(1,)) as pool:
        while len(measurements) < len(settings):
            for found in pool.map(next, columns[: len(settings) - len(measurements)]):
                measurements.append(found)
                if found.own_recall >= enough_recall:
                    return measurements
    return measurements


def _bytes_of(plan: ShardPlan) -> int:
    return BYTES_PER_SHARD_ROW * plan.num_rows


def _threads(num_side_by_side: int) -> int:
    """A node's cores, or a share of all where more shards are built at a time."""
    cores = [node.cpus for node in cluster_nodes()] or [1.0]
    return max(1, int(min(max(cores), sum(cores) / num_side_by_side)))


def _use_threads(threads: int) -> None:
    import faiss  # here: the driver needs none

    faiss.omp_set_num_threads(threads)
