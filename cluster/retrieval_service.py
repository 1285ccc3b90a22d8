"""The retrieval service: one process per index shard, a router in front, all named actors.

A swap loads the next snapshot into new shard processes beside the old ones, warms them, and flips the router between
two queries; the old processes answer what they were asked and end. Each search is answered by the shards of one
snapshot, whole. Memory during a swap is that of both snapshots.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.exceptions import RayActorError, RayTaskError

from cluster.calls import as_realm_error, dead_process, get
from cluster.resources import LIGHT_OPTIONS
from cluster.session import NAMESPACE
from realm_core.errors import DeadlineExceededError, RealmError, ServiceUnavailableError
from realm_core.index.merge import merge_top_k
from realm_core.index.searcher import SearchHits, validate_queries
from realm_core.index.shards import ShardSearcher
from realm_core.retrieval.snapshot_search import SearchResult, result_of
from realm_core.storage.files import Store
from realm_core.storage.snapshots import ShardEntry, SnapshotManifest, load_snapshot

if TYPE_CHECKING:
    from collections.abc import Awaitable

SERVICE_NAME = "realm-retrieval"
LOAD_TIMEOUT_SECONDS = 300.0
CONNECT_TIMEOUT_SECONDS = 10.0


class ShardServer:
    """One index shard in a process of its own."""

    def __init__(self, store_url: str, entry: ShardEntry) -> None:
        self._error: RealmError | None = None
        try:
            self._shard = ShardSearcher(Store(store_url), entry)
        except RealmError as error:
            self._error = error  # a constructor's error would reach the caller as a dead actor, without its message

    def ready(self) -> None:
        """Returns when the shard is loaded; raises what its loading raised."""
        if self._error:
            raise self._error

    def search(self, queries_BD: np.ndarray, num_hits: int) -> SearchHits:
        """Relevances and block ids [B, K] of this shard."""
        self.ready()
        return self._shard.search(queries_BD, num_hits)


ShardActor: Any = ray.remote(max_concurrency=4)(ShardServer)


@dataclass
class _Generation:
    """The shard processes of one snapshot, and the searches they are at."""

    manifest: SnapshotManifest
    shards: list[Any]
    num_in_flight: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def enter(self) -> None:
        self.num_in_flight += 1
        self.idle.clear()

    def leave(self) -> None:
        self.num_in_flight -= 1
        if self.num_in_flight == 0:
            self.idle.set()


@dataclass(frozen=True, slots=True)
class SwapResult:
    """What a swap did; `seconds` from the call to the flip."""

    snapshot_id: str
    previous_snapshot_id: str | None
    was_live_already: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """What the service has done since its router started: `searches = answered + failed` once none is in flight."""

    snapshot: SnapshotManifest
    num_shards: int
    num_searches: int
    num_failed_searches: int
    num_swaps: int


class RetrievalRouter:
    """Sends each search to all shards of the live snapshot and merges what they find."""

    def __init__(self, store_url: str) -> None:
        self._store = Store(store_url)
        self._live: _Generation | None = None
        self._lock = asyncio.Lock()
        self._num_searches = 0
        self._num_failed_searches = 0
        self._num_swaps = 0

    async def search(self, queries_BD: np.ndarray, num_hits: int, deadline_seconds: float) -> SearchResult:
        """See `RetrievalClient.search`."""
        generation = await self._live_generation()
        validate_queries(queries_BD, dimension=generation.manifest.dimension, num_hits=num_hits)
        self._num_searches += 1
        generation.enter()
        try:
            return await self._search(generation, queries_BD, num_hits, deadline_seconds)
        except BaseException:
            self._num_failed_searches += 1
            raise
        finally:
            generation.leave()

    async def swap(self, snapshot_id: str) -> SwapResult:
        """Makes the snapshot live; the one that is live stays so when the new one cannot be loaded."""
        started = time.monotonic()
        await self._live_generation()
        async with self._lock:
            old = self._live
            assert old is not None
            previous = old.manifest.snapshot_id
            if previous == snapshot_id:
                return SwapResult(snapshot_id, previous, True, time.monotonic() - started)
            self._live = await _load(self._store, load_snapshot(self._store, snapshot_id))
            self._num_swaps += 1
            seconds = time.monotonic() - started
        await _drain(old)
        return SwapResult(snapshot_id, previous, False, seconds)

    async def status(self) -> ServiceStatus:
        """Returns when a snapshot is live."""
        live = await self._live_generation()
        return ServiceStatus(
            live.manifest, len(live.shards), self._num_searches, self._num_failed_searches, self._num_swaps
        )

    async def _live_generation(self) -> _Generation:
        """The live snapshot; after a start or a restart, the one that the store says is current."""
        if self._live is None:
            async with self._lock:
                if self._live is None:
                    self._live = await _load(self._store, load_snapshot(self._store))
        return self._live

    async def _search(
        self, generation: _Generation, queries_BD: np.ndarray, num_hits: int, deadline_seconds: float
    ) -> SearchResult:
        calls = [shard.search.remote(queries_BD, num_hits) for shard in generation.shards]
        try:
            hits = await asyncio.wait_for(_gather(calls), timeout=deadline_seconds)
        except TimeoutError:
            raise _too_late(deadline_seconds) from None
        return result_of(merge_top_k(hits, num_hits), generation.manifest)


RouterActor: Any = ray.remote(RetrievalRouter)


async def _gather(calls: list[Awaitable[Any]]) -> list[Any]:
    try:
        return list(await asyncio.gather(*calls))
    except RayTaskError as error:
        raise as_realm_error(error) from error
    except RayActorError as error:
        raise dead_process("an index shard", error) from error


async def _load(store: Store, manifest: SnapshotManifest) -> _Generation:
    """Starts the shard processes, loads and warms them; none is left behind when one of them fails."""
    options = {**LIGHT_OPTIONS, "max_restarts": -1, "max_task_retries": -1}
    shards = [ShardActor.options(**options).remote(store.url, entry) for entry in manifest.shards]
    generation = _Generation(manifest, shards)
    warm_up = np.full((1, manifest.dimension), manifest.dimension**-0.5, dtype=np.float32)
    try:
        await asyncio.wait_for(_gather([shard.ready.remote() for shard in shards]), LOAD_TIMEOUT_SECONDS)
        await asyncio.wait_for(_gather([shard.search.remote(warm_up, 1) for shard in shards]), LOAD_TIMEOUT_SECONDS)
    except BaseException:
        _end(generation)
        raise
    generation.idle.set()
    return generation


async def _drain(generation: _Generation) -> None:
    await generation.idle.wait()
    _end(generation)


def _end(generation: _Generation) -> None:
    for shard in generation.shards:
        ray.kill(shard)


def _too_late(deadline_seconds: float) -> DeadlineExceededError:
    return DeadlineExceededError(
        where="search",
        found=f"no answer from all shards in {deadline_seconds:g} s",
        expected="one by the caller's deadline",
        action="Allow more time; a shard that died is restarted meanwhile.",
    )


class RetrievalClient:
    """The service as trainers and drivers of the cluster see it; offers `SnapshotSearch`."""

    def __init__(self, router: Any) -> None:  # noqa: ANN401 - actor handles are untyped
        self._router = router

    @classmethod
    def connect(cls) -> RetrievalClient:
        """The client of the service that runs on this cluster.

        Raises:
            ServiceUnavailableError: none does.
        """
        try:
            return cls(ray.get_actor(SERVICE_NAME, namespace=NAMESPACE))
        except ValueError as error:
            raise ServiceUnavailableError(
                where="retrieval service",
                found="none on this cluster",
                expected=f"an actor named {SERVICE_NAME}",
                action="Start it with `realm serve --store …`.",
            ) from error

    def search(self, queries_BD: np.ndarray, num_hits: int, *, deadline_seconds: float = 30.0) -> SearchResult:
        """Top `num_hits` blocks of each query [B, D] by inner product, all from one snapshot.

        Raises:
            QueryError: NaN, a wrong width, `num_hits` below 1.
            DeadlineExceededError: no answer in time, for instance while a shard restarts.
            ServiceUnavailableError: the router is down.
        """
        queries_BD = np.ascontiguousarray(queries_BD, dtype=np.float32)
        ref = self._router.search.remote(queries_BD, num_hits, deadline_seconds)
        result: SearchResult = get(ref, timeout_seconds=deadline_seconds + 5.0, what="search")
        return result

    def live_snapshot(self) -> SnapshotManifest:
        """The snapshot that searches are answered from now."""
        return self.status().snapshot

    def swap(self, snapshot_id: str) -> SwapResult:
        """Makes a published snapshot live; returns after the old one has drained. Idempotent."""
        result: SwapResult = get(
            self._router.swap.remote(snapshot_id), timeout_seconds=LOAD_TIMEOUT_SECONDS, what=f"swap to {snapshot_id}"
        )
        return result

    def status(self) -> ServiceStatus:
        """Waits until a snapshot is live, then says what the service has done."""
        status: ServiceStatus = get(
            self._router.status.remote(), timeout_seconds=LOAD_TIMEOUT_SECONDS, what="retrieval service"
        )
        return status


def start_service(store: Store, *, detached: bool = False) -> RetrievalClient:
    """Starts the service on the store's current snapshot, or attaches to the one that runs; returns when it is ready.

    A detached service outlives the driver that started it.

    Raises:
        StoreError: nothing is published, or an index shard is damaged.
    """
    load_snapshot(store)
    options = {"lifetime": "detached"} if detached else {}
    router = RouterActor.options(
        name=SERVICE_NAME,
        namespace=NAMESPACE,
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=1000,
        **LIGHT_OPTIONS,
        **options,
    ).remote(store.url)
    client = RetrievalClient(router)
    client.status()
    return client


def stop_service() -> None:
    """Ends the service of this cluster."""
    ray.kill(RetrievalClient.connect()._router)
