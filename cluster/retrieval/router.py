"""A router: takes searches, puts them into batches, asks every index shard of the live snapshot, merges."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.exceptions import RayError

from cluster.retrieval.admission import Strangers, admits
from cluster.retrieval.batching import Batcher, BatchLimits
from cluster.retrieval.generation import SERVICE_NAME, Generation
from cluster.retrieval.links import ReplicaLink, ShardLinks, SnapshotGoneError
from cluster.retrieval.metrics import RouterMetrics, RouterStatus
from cluster.retrieval.shard_server import listen, take_priority
from cluster.retrieval.wire import (
    Address,
    Frame,
    error_frame,
    hits_frame,
    queries_of,
    read_frame,
    search_request,
)
from cluster.session import NAMESPACE
from realm_core.errors import RealmError, ServiceUnavailableError
from realm_core.index.merge import merge_top_k
from realm_core.index.searcher import SearchHits, no_hits, validate_queries
from realm_core.retrieval.snapshot_search import SearchResult, result_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from realm_core.storage.snapshots import SnapshotManifest

logger = logging.getLogger(__name__)

LIVE_RETRY_SECONDS = 0.2
FOLLOW_SECONDS = 5.0
CONTROLLER_SECONDS = 30.0


@dataclass(eq=False)
class _Connected:
    """A generation with this router's connections to it, and how many batches are at it."""

    generation: Generation
    shards: list[ShardLinks]
    num_in_flight: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def manifest(self) -> SnapshotManifest:
        return self.generation.manifest

    @asynccontextmanager
    async def in_flight(self) -> AsyncIterator[None]:
        self.num_in_flight += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.num_in_flight -= 1
            if not self.num_in_flight:
                self.idle.set()


class RetrievalRouter:
    """All of it runs in the actor's one event loop."""

    def __init__(self, token: bytes, limits: BatchLimits | None = None) -> None:
        self._token = token
        self._strangers = Strangers()
        self._live: _Connected | None = None
        self._connected: dict[int, _Connected] = {}
        self._batcher = Batcher(self._search_batch, limits)
        self._metrics = RouterMetrics()
        self._server: asyncio.Server | None = None
        self._fetching = asyncio.Lock()
        self._starting = asyncio.Lock()
        self._follower: asyncio.Task[None] | None = None

    async def address(self) -> Address:
        """Where it takes searches."""
        async with self._starting:
            if self._server is None:
                take_priority()
                self._follower = asyncio.get_running_loop().create_task(self._follow_controller())
                self._server = await asyncio.start_server(self._serve, sock=listen(), limit=1 << 24)
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def process_id(self) -> int:
        """Of this router."""
        return os.getpid()

    async def generation(self) -> Generation | None:
        """The live one, without waiting for any."""
        return self._live.generation if self._live else None

    async def prepare(self, generation: Generation) -> None:
        """Connects to the processes of a generation; searches go on to the live one. Raises where one is not there."""
        if generation.number in self._connected:
            return
        shards = [
            ShardLinks(
                [self._link(generation, replica, i, j) for j, replica in enumerate(replicas)],
                self._shard_name(generation, i),
            )
            for i, replicas in enumerate(generation.shards)
        ]
        connected = _Connected(generation, shards)
        connected.idle.set()
        try:
            await asyncio.gather(*(shard.connect() for shard in shards))
        except BaseException:
            _close(connected)
            raise
        self._connected[generation.number] = connected

    async def flip(self, number: int) -> None:
        """Makes a prepared generation the live one: batches that begin from now on are answered from it.

        Never goes back to an older generation (one of an older snapshot is a newer one): calls may overtake each other.
        """
        if self._live is not None and self._live.generation.number >= number:
            return
        old, self._live = self._live, self._connected[number]
        self._metrics.live(self._live.manifest)
        if old is not None:
            for shard in old.shards:
                shard.abandon()

    async def retire(self, number: int) -> None:
        """Returns when no batch is at that generation any more, and closes its connections."""
        connected = self._connected.get(number)
        if connected is None or connected is self._live:
            return
        await connected.idle.wait()
        self._connected.pop(number, None)
        _close(connected)

    async def status(self) -> RouterStatus:
        """Counts and health; waits for no snapshot."""
        await self.address()  # a router that has been restarted begins to take searches, and to look for what is live
        live = self._live
        return self._metrics.status(
            generation=live.generation.number if live else None,
            num_waiting_queries=self._batcher.num_waiting_queries,
            num_healthy_replicas=tuple(shard.num_healthy for shard in live.shards) if live else (),
        )

    async def search(self, queries_BD: np.ndarray, num_hits: int, deadline_seconds: float) -> SearchResult:
        """The Ray way in, for drivers that the service's connections do not reach (`ray://`)."""
        hits, manifest = await self._search(queries_BD, num_hits, deadline_seconds)
        return result_of(hits, manifest)

    async def manifest(self) -> SnapshotManifest:
        """Of the live snapshot."""
        return (await self._live_within(30.0)).manifest

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # asyncio does this itself only for sockets that it made; without it small answers wait 40 ms.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if not await admits(reader, writer, self._token, self._strangers):
                logger.warning("A connection without the service's token was closed.")
                return
            while True:
                writer.writelines((await self._answer(await read_frame(reader))).parts())
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            return
        finally:
            writer.close()

    async def _answer(self, request: Frame) -> Frame:
        try:
            if request.header.get("ping"):
                return Frame({})
            if "live" in request.header:
                return await self._answer_live(request)
            num_hits, deadline_seconds = request.header["num_hits"], request.header["deadline_seconds"]
            hits, manifest = await self._search(queries_of(request), num_hits, deadline_seconds)
            return hits_frame(hits, snapshot_id=manifest.snapshot_id, encoder_step=manifest.encoder_step)
        except Exception as error:
            if not isinstance(error, RealmError):
                logger.exception("a search failed")
            return error_frame(error)

    async def _answer_live(self, request: Frame) -> Frame:
        """The live manifest, unless the caller has that one already."""
        manifest = (await self._live_within(request.header["deadline_seconds"])).manifest
        is_known = request.header["live"] == manifest.snapshot_id
        return Frame({"snapshot_id": manifest.snapshot_id, "manifest": None if is_known else manifest.to_json()})

    async def _search(
        self, queries_BD: np.ndarray, num_hits: int, deadline_seconds: float
    ) -> tuple[SearchHits, SnapshotManifest]:
        started = time.monotonic()
        with self._metrics.search(len(queries_BD)):
            live = await self._live_within(deadline_seconds)
            queries_BD = validate_queries(queries_BD, dimension=live.manifest.dimension, num_hits=num_hits)
            if not len(queries_BD):
                return no_hits(0, num_hits), live.manifest
            seconds_left = max(0.0, deadline_seconds - (time.monotonic() - started))
            return await self._batcher.submit(queries_BD, num_hits, seconds_left)

    async def _search_batch(
        self, queries_BD: np.ndarray, num_hits: int, deadline: float
    ) -> tuple[SearchHits, SnapshotManifest]:
        self._metrics.batch(len(queries_BD))
        request = b"".join(search_request(queries_BD, num_hits, 0.0).parts())
        while True:
            live = self._live
            assert live is not None
            # A swap may have come since the queries were taken.
            validate_queries(queries_BD[:1], dimension=live.manifest.dimension, num_hits=num_hits)
            with suppress(SnapshotGoneError):
                async with live.in_flight():
                    hits = await _ask_all(live.shards, request, deadline)
                break
        return (hits[0] if len(hits) == 1 else merge_top_k(hits, num_hits)), live.manifest

    async def _live_within(self, seconds: float) -> _Connected:
        """The live generation; a router that has just been started asks the controller for it."""
        live = self._live
        if live is not None:
            return live
        try:
            async with asyncio.timeout(seconds), self._fetching:
                live = self._live  # another search may have fetched it meanwhile
                while live is None:
                    await self._fetch_live()
                    live = self._live
                    await asyncio.sleep(0 if live else LIVE_RETRY_SECONDS)
                return live
        except TimeoutError:
            raise ServiceUnavailableError(
                where="search",
                found=f"no snapshot live in {seconds:g} s",
                expected="one by the caller's deadline: the service is starting, or restarting",
                action="Allow more time; `realm serve status` shows what it waits for.",
            ) from None

    async def _follow_controller(self) -> None:
        """Brings this router along where it missed a flip, and wakes a controller that has been restarted."""
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            async with self._fetching:
                await self._fetch_live()

    async def _fetch_live(self) -> None:
        """Makes the controller's live generation this router's, if it is newer."""
        old = self._live
        try:
            async with asyncio.timeout(CONTROLLER_SECONDS):
                controller = await asyncio.to_thread(ray.get_actor, SERVICE_NAME, namespace=NAMESPACE)
                generation = await controller.live_generation.remote(old.generation.number if old else None)
                if generation is None or (self._live and self._live.generation.number >= generation.number):
                    return
                await self.prepare(generation)
            await self.flip(generation.number)
            if old is not None:
                logger.warning("this router had missed a swap and was brought along")
                await self.retire(old.generation.number)
        except (RayError, RealmError, OSError, ValueError, TimeoutError) as error:
            logger.info("the controller did not say what is live: %s", error)

    @staticmethod
    def _link(generation: Generation, actor: Any, shard: int, replica: int) -> ReplicaLink:  # noqa: ANN401 - actor handles are untyped
        return ReplicaLink(actor, generation.tasks[shard], f"replica {replica} of index shard {shard}")

    @staticmethod
    def _shard_name(generation: Generation, shard: int) -> str:
        return f"index shard {shard} of {len(generation.shards)}"


RouterActor: Any = ray.remote(RetrievalRouter)


def _close(connected: _Connected) -> None:
    for shard in connected.shards:
        shard.close()


async def _ask_all(shards: list[ShardLinks], request: bytes, deadline: float) -> list[SearchHits]:
    """What each shard found: all are asked at once, and none is worked for any more when one raises."""
    asked = [shard.begin(request) for shard in shards]
    try:
        return [await shard.finish(one, request, deadline) for shard, one in zip(shards, asked, strict=True)]
    except BaseException:
        for one in asked:
            if one is not None:
                one[1].cancel()
        raise
