"""Processes of a snapshot's shards: started, loaded and warmed for a swap, or started empty ahead of one."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from cluster.calls import as_realm_error, dead_process
from cluster.resources import shard_options
from cluster.retrieval.generation import Generation, ShardTask, shard_name
from cluster.retrieval.memory import SwapMode, shard_bytes
from cluster.retrieval.shard_server import ShardActor
from cluster.retrieval.warming import warm
from cluster.session import NAMESPACE
from realm_core.errors import ServiceUnavailableError
from realm_core.index.setting import SearchSetting

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cluster.retrieval.service_status import ServiceConfig
    from realm_core.storage.snapshots import ShardEntry, SnapshotManifest

logger = logging.getLogger(__name__)

LOAD_TIMEOUT_SECONDS = 600.0
LOAD_RETRIES = 2
"""So often is a shard loaded again whose process died before it was loaded."""
SECONDS_BETWEEN_LOOKS = 0.2
"""At a process that Ray is starting again."""
AHEAD_SECONDS = 600.0
"""Processes that were started ahead of a swap end when none has taken them by then."""

Shards = list[tuple[Any, ...]]
"""For each index shard, in block order, the handles of its replicas."""


@dataclass(frozen=True, slots=True)
class _Ahead:
    """Processes without a shard yet, given what the shards of a snapshot take."""

    number: int
    """Of the generation that they can become."""
    entries: tuple[ShardEntry, ...]
    shards: Shards

    def fit(self, manifest: SnapshotManifest) -> bool:
        """True for a snapshot that is divided in the same way."""
        return [(e.kind, e.num_rows) for e in self.entries] == [(e.kind, e.num_rows) for e in manifest.shards]

    @property
    def num_bytes(self) -> int:
        """What they are given, all together."""
        return sum(shard_bytes(entry) * len(actors) for entry, actors in zip(self.entries, self.shards, strict=True))


class ShardProcesses:
    """Starts the processes of one snapshot after the other; its calls must not overlap."""

    def __init__(self, config: ServiceConfig) -> None:
        self._config = config
        self._ahead: _Ahead | None = None

    @property
    def num_bytes_ahead(self) -> int:
        """What Ray has given to processes that wait for a swap."""
        return self._ahead.num_bytes if self._ahead else 0

    def start_ahead(self, live: SnapshotManifest) -> None:
        """Starts what a snapshot that is divided as the live one takes; once, until `start` comes or time is over."""
        if self._ahead is not None:
            return
        number = _next_number()
        shards = [self._replicas(entry, number, i, "blue-green") for i, entry in enumerate(live.shards)]
        self._ahead = _Ahead(number, live.shards, shards)
        asyncio.get_running_loop().call_later(AHEAD_SECONDS, self._give_up, self._ahead)

    async def start(self, manifest: SnapshotManifest, mode: SwapMode) -> Generation:
        """Starts, loads and warms the processes of a snapshot; none is left behind when one of them fails.

        Those that were started ahead are used, or end where they do not fit.

        Raises:
            RealmError: what loading raised, or that processes die or are not ready in time.
        """
        tasks = [self._task(manifest, entry) for entry in manifest.shards]
        number, shards = self._take_ahead(manifest, mode) or (_next_number(), [])
        try:
            for i, task in enumerate(tasks[len(shards) :]):
                shards.append(self._replicas(task.entry, number, i, mode))
                if mode == "in-place-per-shard":
                    await self._load(shards[-1:], [task], manifest)
            await self._load(shards, tasks, manifest)
        except BaseException:
            end_processes(shards)
            raise
        return Generation(number=number, manifest=manifest, tasks=tuple(tasks), shards=tuple(shards))

    def _take_ahead(self, manifest: SnapshotManifest, mode: SwapMode) -> tuple[int, Shards] | None:
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return None
        if mode == "blue-green" and ahead.fit(manifest):
            return ahead.number, ahead.shards
        end_processes(ahead.shards)
        return None

    def _give_up(self, ahead: _Ahead) -> None:
        if self._ahead is ahead:
            logger.warning("No swap has come in %g s: processes that were started ahead of it end.", AHEAD_SECONDS)
            self._ahead = None
            end_processes(ahead.shards)

    def _replicas(self, entry: ShardEntry, number: int, shard: int, mode: SwapMode) -> tuple[Any, ...]:
        options = shard_options(0 if mode == "in-place-per-shard" else shard_bytes(entry))
        return tuple(
            ShardActor.options(
                name=shard_name(number, shard, replica), namespace=NAMESPACE, lifetime="detached", **options
            ).remote(entry.kind)
            for replica in range(self._config.replicas)
        )

    def _task(self, manifest: SnapshotManifest, entry: ShardEntry) -> ShardTask:
        return ShardTask(
            store_url=self._config.store_url,
            snapshot_id=manifest.snapshot_id,
            entry=entry,
            setting=SearchSetting.from_json(manifest.search_setting),
            dimension=manifest.dimension,
            threads=self._threads_per_process(manifest),
            token=self._config.token,
        )

    def _threads_per_process(self, manifest: SnapshotManifest) -> int:
        """The cores of the cluster, divided between the processes that search side by side."""
        num_processes = len(manifest.shards) * self._config.replicas
        return max(1, int(ray.cluster_resources().get("CPU", 1.0)) // num_processes)

    async def _load(self, shards: Shards, tasks: Sequence[ShardTask], manifest: SnapshotManifest) -> None:
        what = f"loading {manifest.snapshot_id}"
        loads = [
            self._load_replica(replica, task, manifest)
            for task, replicas in zip(tasks, shards, strict=True)
            for replica in replicas
        ]
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_SECONDS):
                await asyncio.gather(*loads)
        except RayTaskError as error:
            raise as_realm_error(error) from error
        except (RayActorError, ConnectionError) as error:
            raise dead_process(what, error) from error
        except TimeoutError as error:
            raise ServiceUnavailableError(
                where=what,
                found=f"processes that were not ready in {LOAD_TIMEOUT_SECONDS:g} s",
                expected="all index shards loaded by then",
                action="See with `ray status` whether a node has room for them; the live snapshot goes on.",
            ) from error

    async def _load_replica(
        self,
        replica: Any,  # noqa: ANN401 - actor handles are untyped
        task: ShardTask,
        manifest: SnapshotManifest,
    ) -> None:
        """Again when its process dies meanwhile. Ray's own retries would be used up before it is back."""
        for retries_left in reversed(range(LOAD_RETRIES + 1)):
            await _running(replica)
            try:
                await warm(await replica.address.remote(task), self._config.token, manifest)
            except (RayActorError, ConnectionError):
                if not retries_left:
                    raise
            else:
                return


async def _running(replica: Any) -> None:  # noqa: ANN401 - actor handles are untyped
    """Returns when the process is there, for the first time or again."""
    while True:
        try:
            await replica.process_id.remote()
        except ActorUnavailableError:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
        else:
            return


def end_processes(shards: Iterable[tuple[Any, ...]]) -> None:
    """Ends the processes of these shards; some may have ended already."""
    for replicas in shards:
        for replica in replicas:
            with suppress(RayError, ValueError):
                ray.kill(replica)


def _next_number() -> int:
    return time.time_ns() // 1_000_000
