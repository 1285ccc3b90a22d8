"""A router's way to the shard processes: connections, fail-over between replicas, waiting for one that restarts."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayError

from cluster.retrieval.frame_connection import FrameConnection
from cluster.retrieval.wire import PING, ConnectionClosedError, Frame, hits_of
from realm_core.errors import DeadlineExceededError, RealmError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from cluster.retrieval.generation import ShardTask
    from realm_core.index.searcher import SearchHits

logger = logging.getLogger(__name__)

SILENT_SECONDS = 2.0
"""After which a replica that is searching is asked, on another connection, whether it is well, with as long to say."""
ADDRESS_SECONDS = 5.0
RECONNECT_SECONDS = (0.05, 1.0)
"""Between two looks at a process that restarts: the first wait, doubled each time, and the longest."""


_Asked = tuple["ReplicaLink", "asyncio.Future[Frame]"]
"""A replica, and its answer to be."""


class SnapshotGoneError(Exception):
    """No replica of a shard answers, and another snapshot is live by now: ask that one."""


class ReplicaLink:
    """Connections to one shard process; each carries one search at a time."""

    def __init__(self, actor: Any, task: ShardTask, name: str) -> None:  # noqa: ANN401 - actor handles are untyped
        self.name = name
        self.num_in_flight = 0
        self.healthy = asyncio.Event()
        self._actor = actor
        self._task = task
        self._address = ("", 0)
        self._idle: list[FrameConnection] = []
        self._recovery: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self) -> None:
        """Asks the process where it listens, when it has loaded its shard, and opens a connection.

        Raises:
            RealmError: what the process's loading raised.
            RayError, OSError, TimeoutError: it is not there.
        """
        async with asyncio.timeout(ADDRESS_SECONDS):
            self._address = await self._actor.address.remote(self._task)
            connection = await self._open()
            await _ping(connection)  # the system takes connections also for a process that is stopped
        self._idle.append(connection)
        self.healthy.set()

    def begin(self, request: bytes) -> asyncio.Future[Frame]:
        """Sends a search at once; its answer takes as long as the process works on it, while it is well.

        The future raises `OSError` where the process is gone, or does not answer a ping either; it is looked for from
        then on.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Frame] = loop.create_future()
        timer = loop.call_later(SILENT_SECONDS, self._look_after, answer)
        self.num_in_flight += 1
        answer.add_done_callback(lambda _: self._ended(answer, timer))
        if self._idle:
            self._send(self._idle.pop(), request, answer)
        else:
            self._spawn(self._open_and_send(request, answer))
        return answer

    def give_up(self) -> None:
        """Uses the process no more until it answers a ping."""
        self.healthy.clear()
        self._drop_idle()
        if self._recovery is None or self._recovery.done():
            logger.warning("%s does not answer; looking for it until it is back.", self.name)
            self._recovery = asyncio.get_running_loop().create_task(self._recover())

    def close(self) -> None:
        """Ends the connections and looks no further."""
        self.healthy.clear()
        if self._recovery is not None:
            self._recovery.cancel()
        self._drop_idle()

    def _send(self, connection: FrameConnection, request: bytes, answer: asyncio.Future[Frame]) -> None:
        answer.add_done_callback(lambda _: self._keep(connection, answer))
        connection.ask(request, answer)

    async def _open_and_send(self, request: bytes, answer: asyncio.Future[Frame]) -> None:
        try:
            connection = await self._open()
        except OSError as error:
            _fail(answer, error)
            return
        if answer.done():
            connection.close()
        else:
            self._send(connection, request, answer)

    def _keep(self, connection: FrameConnection, answer: asyncio.Future[Frame]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            connection.close()
        else:
            self._idle.append(connection)

    def _ended(self, answer: asyncio.Future[Frame], timer: asyncio.TimerHandle) -> None:
        self.num_in_flight -= 1
        timer.cancel()
        if not answer.cancelled() and answer.exception() is not None:
            self.give_up()

    def _look_after(self, answer: asyncio.Future[Frame]) -> None:
        self._spawn(self._ping_while_it_works(answer))

    async def _ping_while_it_works(self, answer: asyncio.Future[Frame]) -> None:
        """Ends an answer that is waited for where the process does not answer a ping either."""
        while not answer.done():
            try:
                async with asyncio.timeout(SILENT_SECONDS):
                    other = await self._open()
                    try:
                        await _ping(other)
                    finally:
                        other.close()
            except (OSError, TimeoutError) as error:
                _fail(answer, error)
                return
            await asyncio.wait({answer}, timeout=SILENT_SECONDS)

    async def _open(self) -> FrameConnection:
        return await FrameConnection.open(self._address, self._task.token)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop itself keeps no task alive
        task.add_done_callback(self._tasks.discard)

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
        for connection in self._idle:
            connection.close()
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

    def begin(self, request: bytes) -> _Asked | None:
        """Sends a search to the replica with the least to do; None where none is well."""
        healthy = [replica for replica in self._replicas if replica.healthy.is_set()]
        if not healthy:
            return None
        replica = min(healthy, key=lambda replica: replica.num_in_flight)
        return replica, replica.begin(request)

    async def finish(self, asked: _Asked | None, request: bytes, deadline: float) -> SearchHits:
        """The shard's hits, from the replica asked or whichever else answers; `deadline` is of the loop's clock.

        Raises:
            DeadlineExceededError: none answered by then.
            SnapshotGoneError: none answers, and `abandon` was called.
            RealmError: what the shard raised.
        """
        while (seconds_left := deadline - asyncio.get_running_loop().time()) > 0:
            if asked is not None:
                replica, answer = asked
                try:
                    async with asyncio.timeout_at(deadline):
                        return hits_of(await answer)
                except TimeoutError:
                    replica.give_up()
                except OSError:
                    pass  # of the connection; the link has taken note
            elif self._abandoned.is_set():
                raise SnapshotGoneError
            else:
                await self._wait_for_any(seconds_left)
            asked = self.begin(request)
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


async def _ping(connection: FrameConnection) -> None:
    """Returns when the other side has answered; raises `ConnectionClosedError` where it ends the connection."""
    answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
    connection.ask(b"".join(Frame(PING).parts()), answer)
    await answer


def _fail(answer: asyncio.Future[Frame], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(ConnectionClosedError(f"{type(error).__name__}: {error}"))
