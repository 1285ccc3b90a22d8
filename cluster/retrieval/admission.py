"""Connections that have not shown the service's token yet: for how long, and how many of them."""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from cluster.retrieval.wire import TOKEN_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ADMISSION_SECONDS = 5.0
"""From a connection to its token, which the service's own send at once."""
MAX_STRANGERS = 128
"""Connections of a process that may be without one at the same time: each takes a file descriptor, and a thread in the
shard processes."""


class Strangers:
    """Those that have not shown the token. One too many, and the one that has waited longest is closed: to refuse the
    newcomer instead would let as many silent connections keep out all callers. Safe for threads.
    """

    def __init__(self, most: int = MAX_STRANGERS) -> None:
        self._most = most
        self._waiting: dict[object, Callable[[], None]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def waiting(self, close: Callable[[], None]) -> Iterator[None]:
        """Counts a connection until the end of the block; `close()` ends it, from whichever thread."""
        one = object()
        with self._lock:
            if len(self._waiting) >= self._most:
                self._waiting.pop(next(iter(self._waiting)))()
            self._waiting[one] = close
        try:
            yield
        finally:
            with self._lock:
                self._waiting.pop(one, None)


def is_admitted(connection: socket.socket, token: bytes, strangers: Strangers) -> bool:
    """True when a new connection begins with the token, in time."""
    connection.settimeout(ADMISSION_SECONDS)
    try:
        with strangers.waiting(lambda: _end(connection)):
            given = connection.recv(TOKEN_BYTES)  # at once: the token is the first thing sent, and far below a packet
        connection.settimeout(None)
    except OSError:
        return False
    return secrets.compare_digest(given, token)


async def admits(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: bytes, strangers: Strangers
) -> bool:
    """True when a new connection begins with the token, in time."""
    try:
        with strangers.waiting(writer.close):
            given = await asyncio.wait_for(reader.readexactly(TOKEN_BYTES), ADMISSION_SECONDS)
    except (asyncio.IncompleteReadError, TimeoutError, ConnectionError):
        return False
    return secrets.compare_digest(given, token)


def _end(connection: socket.socket) -> None:
    """Wakes the thread that waits for the token."""
    with suppress(OSError):  # the other side has ended it already
        connection.shutdown(socket.SHUT_RDWR)
