"""A client's connections to one router of the service."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from contextlib import suppress
from typing import Any

from cluster.calls import get
from cluster.retrieval import wire
from cluster.retrieval.finding import require_cluster
from realm_core.errors import DeadlineExceededError

CONNECT_SECONDS = 2.0
SILENT_SECONDS = 2.0
"""After which a router is asked, on another connection, whether it is well."""
GRACE_SECONDS = 1.0
"""The router itself says which shard is late; only if it says nothing does the connection end the wait."""


class RouterConnections:
    """Connections to one router: as many as threads have searched at a time, used again and again."""

    def __init__(self, actor: Any, token: bytes) -> None:  # noqa: ANN401 - actor handles are untyped
        self.actor = actor
        self._token = token
        self._idle: deque[socket.socket] = deque()
        self._process_id = os.getpid()
        self._address: wire.Address | None = None

    def ask(self, request: wire.Frame, seconds: float) -> wire.Frame:
        """The router's answer.

        Raises:
            TimeoutError: none in time, on a connection that stands.
            OSError, RayError, RealmError: no connection.
        """
        connection = self._take(seconds)
        try:
            connection.settimeout(seconds + GRACE_SECONDS)
            wire.send_frame(connection, request)
            self._wait_for_answer(connection, time.monotonic() + seconds + GRACE_SECONDS)
            answer = wire.receive_frame(connection)
        except BaseException:
            connection.close()
            self.close()  # a router that has been restarted listens elsewhere
            raise
        self._idle.append(connection)
        return answer

    def _wait_for_answer(self, connection: socket.socket, deadline: float) -> None:
        """Returns when there is something to read, or nothing will come.

        Raises:
            TimeoutError: the router is well, and the time is up.
            ConnectionError: it does not answer a ping.
        """
        while (seconds_left := deadline - time.monotonic()) > 0:
            connection.settimeout(min(seconds_left, SILENT_SECONDS))
            with suppress(TimeoutError):
                connection.recv(1, socket.MSG_PEEK)
                connection.settimeout(max(seconds_left, GRACE_SECONDS))
                return
            if self._address is None:
                raise ConnectionError("the router was given up meanwhile")
            try:
                with wire.connect(self._address, self._token, SILENT_SECONDS) as other:
                    wire.send_frame(other, wire.Frame(wire.PING))
                    wire.receive_frame(other)
            except OSError as error:
                raise ConnectionError("the router does not answer any more") from error
        raise TimeoutError

    def close(self) -> None:
        """Ends the connections that no thread is using; the next search looks for the router again."""
        self._address = None
        while self._idle:
            with suppress(IndexError):  # another thread took the last one
                self._idle.pop().close()

    def __del__(self) -> None:
        self.close()

    def _take(self, seconds: float) -> socket.socket:
        if self._process_id != os.getpid():  # after a fork: answers on these belong to the parent
            self._idle, self._process_id = deque(), os.getpid()
        with suppress(IndexError):
            return self._idle.pop()
        try:
            return wire.connect(self._find(seconds), self._token, min(seconds, CONNECT_SECONDS))
        except OSError as error:
            self._address = None
            raise ConnectionError(f"the router does not take connections: {error}") from error

    def _find(self, seconds: float) -> wire.Address:
        address = self._address
        if address is None:
            require_cluster()
            try:
                address = get(self.actor.address.remote(), timeout_seconds=min(seconds, CONNECT_SECONDS), what="router")
            except DeadlineExceededError as error:
                raise ConnectionError(str(error)) from error
            self._address = address
        return address
