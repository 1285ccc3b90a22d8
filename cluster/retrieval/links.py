"""A router's way to the shard processes: connections, fail-over between replicas, waiting for one that restarts."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayError

from cluster.retrieval.wire import Frame, hits_of, ping, read_frame
from realm_core.errors import DeadlineExceededError, RealmError

if TYPE_CHECKING:
    from realm_core.index.searcher import SearchHits

logger = logging.getLogger(__name__)

SILENT_SECONDS = 2.0
"""After which a replica that is searching is asked, on another connection, whether it is well, with as long to say."""
ADDRESS_SECONDS = 5.0
RECONNECT_SECONDS = (0.05, 1.0)
"""Between two looks at a process that restarts: the first wait, doubled each time, and the longest."""


class _DownError(Exception):
    """A replica did not answer."""


class SnapshotGoneError(Exception):
    """No replica of a shard answers, and another snapshot is live by now: ask that one."""


class ReplicaLink:
    """Connections to one shard process; each carries one search at a time."""

    def __init__(self, actor: Any, token: bytes, name: str) -> None:  # noqa: ANN401 - actor handles are untyped
        self.name = name
        self.num_in_flight = 0
        self.healthy = asyncio.Event()
        self._actor = actor
        self._token = token
        self._address = ("", 0)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._recovery: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Asks the process where it listens and opens a connection.

        Raises:
            RealmError: what the process's loading raised.
            RayError, OSError, TimeoutError: it is not there.
        """
        async with asyncio.timeout(ADDRESS_SECONDS):
            self._address = await self._actor.address.remote()
            connection = await self._open()
            await ping(*connection)  # the system takes connections also for a process that is stopped
        self._idle.append(connection)
        self.healthy.set()

    async def search(self, request: bytes, timeout_seconds: float) -> Frame:
        """The process's answer, however long it works on it.

        Raises:
            _DownError: it is gone, or stopped, or the time is up; it is looked for from now on.
        """
        self.num_in_flight += 1
        connection = None
        try:
            async with asyncio.timeout(timeout_seconds):
                connection = self._idle.pop() if self._idle else await self._open()
                reader, writer = connection
                writer.write(request)
                answer = await self._answer(reader)
            self._idle.append(connection)
            return answer
        except (OSError, TimeoutError) as error:  # ConnectionError is an OSError
            self._give_up()
            raise _DownError from error
        finally:
            self.num_in_flight -= 1
            if connection is not None and connection not in self._idle:
                connection[1].close()

    def close(self) -> None:
        """Ends the connections and looks no further."""
        self.healthy.clear()
        if self._recovery is not None:
            self._recovery.cancel()
        self._drop_idle()

    async def _answer(self, reader: asyncio.StreamReader) -> Frame:
        """The answer, while the process is well: one that does not answer a ping is down."""
        answer = asyncio.ensure_future(read_frame(reader))
        try:
            while not (await asyncio.wait({answer}, timeout=SILENT_SECONDS))[0]:
                async with asyncio.timeout(SILENT_SECONDS):
                    other = await self._open()
                    try:
                        await ping(*other)
                    finally:
                        other[1].close()
            return answer.result()
        finally:
            answer.cancel()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self._address, limit=1 << 24)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        writer.write(self._token)
        return reader, writer

    def _give_up(self) -> None:
        self.healthy.clear()
        self._drop_idle()
        if self._recovery is None or self._recovery.done():
            logger.warning("%s does not answer; looking for it until it is back.", self.name)
            self._recovery = asyncio.get_running_loop().create_task(self._recover())

    async def _recover(self) -> None:
        wait_seconds, longest = RECONNECT_SECONDS
        while not self.healthy.is_set():
            with suppress(RayError, RealmError, OSError, TimeoutError):
                await self.connect()
                logger.warning("%s is back.", self.name)
                return
            await asyncio.sleep(wait_seconds)
            wait_seconds = min(longest, 2 * wait_seconds)

    def _drop_idle(self) -> None:
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()


class ShardLinks:
    """The replicas of one index shard."""

    def __init__(self, replicas: list[ReplicaLink], name: str) -> None:
        self._replicas = replicas
        self._name = name
        self._abandoned = asyncio.Event()

    async def connect(self) -> None:
        """Connects to all of them; raises what the first that fails raised."""
        await asyncio.gather(*(replica.connect() for replica in self._replicas))

    async def search(self, request: bytes, deadline: float) -> SearchHits:
        """The shard's hits, from whichever replica answers; `deadline` is of the event loop's clock.

        Raises:
            DeadlineExceededError: none answered by then.
            SnapshotGoneError: none answers, and `abandon` was called.
            RealmError: what the shard raised.
        """
        while (seconds_left := deadline - asyncio.get_running_loop().time()) > 0:
            healthy = [replica for replica in self._replicas if replica.healthy.is_set()]
            if not healthy:
                if self._abandoned.is_set():
                    raise SnapshotGoneError
                await self._wait_for_any(seconds_left)
                continue
            replica = min(healthy, key=lambda replica: replica.num_in_flight)
            with suppress(_DownError):
                return hits_of(await replica.search(request, seconds_left))
        raise DeadlineExceededError(
            where="search",
            found=f"no answer of {self._name} by the deadline",
            expected="one from each index shard",
            action="Allow more time: a process that died is restarted and loads its shard again; or serve with more "
            "replicas. `realm serve status` shows what is down.",
        )

    @property
    def num_healthy(self) -> int:
        """Replicas that answer."""
        return sum(replica.healthy.is_set() for replica in self._replicas)

    def abandon(self) -> None:
        """Another snapshot is live: searches here go on, but wait for no replica to come back."""
        self._abandoned.set()

    def close(self) -> None:
        """Ends all connections."""
        for replica in self._replicas:
            replica.close()

    async def _wait_for_any(self, seconds: float) -> None:
        events = [self._abandoned, *(replica.healthy for replica in self._replicas)]
        waits = [asyncio.ensure_future(event.wait()) for event in events]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
