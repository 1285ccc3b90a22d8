"""The controller: starts the shard processes of a snapshot, swaps snapshots, knows the routers. No search passes it.

All actors are detached, so that none ends with another: routers and shards go on while the controller restarts, and
it then learns from the routers what is live.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from cluster.calls import as_realm_error
from cluster.resources import LIGHT_OPTIONS
from cluster.retrieval.generation import SERVICE_NAME, Generation, is_shard_name, router_name, shard_name
from cluster.retrieval.memory import SwapMemory, SwapMode, memory_of_swap
from cluster.retrieval.router import RouterActor
from cluster.retrieval.service_status import ServiceConfig, ServiceStatus, SwapResult
from cluster.retrieval.shard_processes import ShardProcesses, end_processes
from cluster.session import NAMESPACE
from realm_core.errors import RealmError, ServiceUnavailableError
from realm_core.storage.files import Store
from realm_core.storage.leases import ReadLease, reading
from realm_core.storage.snapshots import SnapshotManifest, load_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)

DRAIN_TIMEOUT_SECONDS = 60.0
ROUTER_TIMEOUT_SECONDS = 30.0
STATUS_SECONDS = 5.0
FOLLOW_SECONDS = 2.0
RETRY_FAILED_SECONDS = 60.0


@dataclass
class _Swaps:
    done: int = 0
    last_failed: str = ""
    failed_id: str = ""
    failed_at: float = field(default=-RETRY_FAILED_SECONDS)
    upcoming: str = ""
    upcoming_memory: str = ""


class RetrievalController:
    """One at a time per cluster; its methods run in one event loop."""

    def __init__(self, config: ServiceConfig) -> None:
        self._config = config
        self._store = Store(config.store_url)
        self._live: Generation | None = None
        self._processes = ShardProcesses(config)
        self._swaps = _Swaps()
        self._swapping = asyncio.Lock()
        self._starting = asyncio.Lock()
        self._routers: list[Any] = []
        self._follower: asyncio.Task[None] | None = None
        self._lease: ReadLease | None = None

    async def start(self) -> None:
        """Returns when a snapshot is live: the one that routers serve already, else the store's current one.

        Raises:
            RealmError: nothing is published, or an index shard cannot be loaded.
        """
        async with self._starting:
            if self._live is None:
                self._routers = [self._router(number) for number in range(self._config.routers)]
                await self._adopt()
            if self._live is None:
                await self._swap(await asyncio.to_thread(load_snapshot, self._store), "blue-green")
            if self._config.follow and self._follower is None:
                self._follower = asyncio.get_running_loop().create_task(self._follow())

    async def config(self) -> ServiceConfig:
        """Of the service that runs."""
        return self._config

    async def routers(self) -> list[Any]:
        """Handles of the routers; they are there before a snapshot is live."""
        return [self._router(number) for number in range(self._config.routers)]

    async def live_generation(self, known: int | None) -> Generation | None:
        """What a router is to serve, unless it is the one that it knows; None also while there is none.

        Every router asks now and then, which wakes a controller that Ray has restarted: nothing else need call it.
        """
        if self._live is None and not self._starting.locked():
            await self.start()
        return None if self._live is None or self._live.number == known else self._live

    async def memory_of_swap(self, snapshot_id: str) -> SwapMemory:
        """What a swap to that snapshot would take; raises `StoreError` for one that is not published."""
        return self._memory_of(await asyncio.to_thread(load_snapshot, self._store, snapshot_id))

    async def prepare_swap(self, bytes_left_free: int) -> None:
        """See `RetrievalClient.prepare_swap`."""
        await self.start()
        async with self._swapping:
            assert self._live is not None
            live = self._live.manifest
            memory = self._memory_of(live)
            if memory.next_bytes + bytes_left_free <= memory.free_bytes:
                self._processes.start_ahead(live)

    async def swap(self, snapshot_id: str, mode: SwapMode) -> SwapResult:
        """See `RetrievalClient.swap`. Swaps come one after another; the live snapshot stays live where one fails."""
        await self.start()
        async with self._swapping:
            started = time.monotonic()
            try:
                manifest = await asyncio.to_thread(load_snapshot, self._store, snapshot_id)
                return await self._swap(manifest, mode)
            except RealmError as error:
                self._swaps.last_failed = f"to {snapshot_id} after {time.monotonic() - started:.1f} s: {error}"
                self._swaps.failed_id, self._swaps.failed_at = snapshot_id, time.monotonic()
                raise

    async def status(self) -> ServiceStatus:
        """Returns when a snapshot is live."""
        await self.start()
        assert self._live is not None
        routers = await asyncio.gather(*(_or_none(router.status.remote(), STATUS_SECONDS) for router in self._routers))
        return ServiceStatus(
            snapshot=self._live.manifest,
            config=self._config,
            routers=tuple(routers),
            num_swaps=self._swaps.done,
            last_failed_swap=self._swaps.last_failed,
            upcoming=self._swaps.upcoming,
            upcoming_memory=self._swaps.upcoming_memory,
        )

    async def processes(self) -> dict[str, int]:
        """Process ids by actor name, of those that answer now."""
        await self.start()
        assert self._live is not None
        named = {router_name(i): router for i, router in enumerate(self._routers)}
        for i, replicas in enumerate(self._live.shards):
            named |= {shard_name(self._live.number, i, j): replica for j, replica in enumerate(replicas)}
        pids = await asyncio.gather(*(_or_none(actor.process_id.remote(), STATUS_SECONDS) for actor in named.values()))
        found = {name: pid for name, pid in zip(named, pids, strict=True) if pid is not None}
        return {SERVICE_NAME: os.getpid(), **found}

    async def stop(self) -> None:
        """Ends all processes of the service but this one."""
        if self._follower is not None:
            self._follower.cancel()
        for router in await self.routers():
            ray.kill(router)
        await self._end_shards(keep=())

    async def _swap(self, manifest: SnapshotManifest, mode: SwapMode) -> SwapResult:
        started = time.monotonic()
        previous = self._live.manifest.snapshot_id if self._live else None
        if previous == manifest.snapshot_id:
            return SwapResult(manifest.snapshot_id, previous, True, time.monotonic() - started)
        memory = self._memory_of(manifest)
        memory.require_room(mode, manifest.snapshot_id)
        self._swaps.upcoming, self._swaps.upcoming_memory = manifest.snapshot_id, str(memory)
        logger.info("swap to %s: %s", manifest.snapshot_id, memory)
        try:
            return await self._swap_to(manifest, mode, memory, started)
        finally:
            self._swaps.upcoming = self._swaps.upcoming_memory = ""

    async def _swap_to(
        self, manifest: SnapshotManifest, mode: SwapMode, memory: SwapMemory, started: float
    ) -> SwapResult:
        old = self._live
        previous = old.manifest.snapshot_id if old else None
        generation = await self._processes.start(manifest, mode)
        try:
            await self._flip(generation)
        except BaseException:
            if self._live is not generation:
                await self._tell_routers("retire", generation.number)
                end_processes(generation.shards)
            raise
        self._swaps.done += old is not None
        seconds = time.monotonic() - started
        if old is not None:
            await self._retire(old)
        return SwapResult(manifest.snapshot_id, previous, False, seconds, time.monotonic() - started - seconds, memory)

    async def _flip(self, generation: Generation) -> None:
        """All routers connect to the new processes, then all flip.

        From the first flip on there is no way back: a router that is not there, or does not answer, asks for what is
        live when it is back.
        """
        for answer in await self._tell_routers("prepare", generation):
            if isinstance(answer, RayTaskError):  # one of a TimeoutError is a TimeoutError too
                raise _unreachable(generation.manifest.snapshot_id, answer)
            if not isinstance(answer, RayActorError | TimeoutError):
                raise answer
        self._live = generation
        await self._tell_routers("flip", generation.number)
        lease, self._lease = self._lease, await asyncio.to_thread(reading, self._store, generation.manifest.snapshot_id)
        if lease is not None:
            lease.close()

    async def _tell_routers(self, method: str, *arguments: Any) -> list[BaseException]:  # noqa: ANN401 - of any router method
        """Returns what went wrong, after it was logged."""
        calls = [getattr(router, method).remote(*arguments) for router in self._routers]
        answers = await asyncio.gather(
            *(asyncio.wait_for(call, ROUTER_TIMEOUT_SECONDS) for call in calls), return_exceptions=True
        )
        problems = [answer for answer in answers if isinstance(answer, BaseException)]
        for problem in problems:
            logger.warning("a router did not %s: %r", method, problem)
        return problems

    async def _retire(self, old: Generation) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_TIMEOUT_SECONDS):
                await self._tell_routers("retire", old.number)
        end_processes(old.shards)

    def _memory_of(self, manifest: SnapshotManifest) -> SwapMemory:
        live = self._live.manifest if self._live else None
        free_bytes = int(ray.available_resources().get("memory", 0.0))
        free_bytes += self._processes.num_bytes_ahead
        return memory_of_swap(live, manifest, replicas=self._config.replicas, free_bytes=free_bytes)

    async def _adopt(self) -> None:
        """After a restart: takes over the generation that the routers serve, and ends what no router serves.

        A router that is slow to answer is waited for: the processes that it searches would be ended.
        """
        found = await asyncio.gather(
            *(_or_none(router.generation.remote(), ROUTER_TIMEOUT_SECONDS) for router in self._routers)
        )
        generations = [generation for generation in found if generation is not None]
        newest = max(generations, key=lambda generation: generation.number, default=None)
        keep = (
            {shard_name(newest.number, i, j) for i, r in enumerate(newest.shards) for j in range(len(r))}
            if newest
            else ()
        )
        await self._end_shards(keep=keep)
        if newest is None:
            return
        await self._flip(newest)

    async def _end_shards(self, keep: Iterable[str]) -> None:
        names = await asyncio.to_thread(ray.util.list_named_actors)
        for name in filter(is_shard_name, names):
            if name not in keep:
                with suppress(ValueError, RayError):
                    ray.kill(ray.get_actor(name, namespace=NAMESPACE))

    def _router(self, number: int) -> Any:  # noqa: ANN401 - actor handles are untyped
        return RouterActor.options(
            name=router_name(number),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_concurrency=1000,
            scheduling_strategy="SPREAD",
            **LIGHT_OPTIONS,
        ).remote(self._config.token)

    async def _follow(self) -> None:
        """Makes whatever is published live; a snapshot that failed is tried again once a minute."""
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            try:
                published = await asyncio.to_thread(load_snapshot, self._store)
                if self._is_due(published.snapshot_id):
                    await self.swap(published.snapshot_id, self._config.swap)
            except RealmError as error:
                logger.warning("the live snapshot goes on: %s", error)
            except Exception:
                logger.exception("following the store failed; the live snapshot goes on")

    def _is_due(self, snapshot_id: str) -> bool:
        assert self._live is not None
        failed_lately = time.monotonic() - self._swaps.failed_at < RETRY_FAILED_SECONDS
        return snapshot_id != self._live.manifest.snapshot_id and not (
            snapshot_id == self._swaps.failed_id and failed_lately
        )


ControllerActor: Any = ray.remote(RetrievalController)


def _unreachable(snapshot_id: str, error: BaseException) -> BaseException:
    ours = as_realm_error(error)
    if isinstance(ours, RealmError):
        return ours
    return ServiceUnavailableError(
        where=f"swap to {snapshot_id}",
        found=f"a router that cannot connect to the new shard processes ({str(error).splitlines()[-1]})",
        expected="connections from every router to every shard process",
        action="The live snapshot goes on. Look whether those processes run, and at the network between the nodes.",
    )


async def _or_none(call: Any, seconds: float) -> Any:  # noqa: ANN401 - refs are untyped
    with suppress(RayError, TimeoutError):
        return await asyncio.wait_for(call, seconds)
    return None
