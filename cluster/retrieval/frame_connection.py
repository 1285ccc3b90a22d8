"""One connection to a process of the service, for an event loop: a request goes out at once, its answer is a future."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

from cluster.retrieval.wire import Address, ConnectionClosedError, Frame, take_frame


class FrameConnection(asyncio.Protocol):
    """Carries one request at a time. No coroutine on the way: each would cost the search a turn of the loop."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._answer: asyncio.Future[Frame] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, address: Address, token: bytes) -> FrameConnection:
        """A connection that has shown the token; raises `OSError` where there is none."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, *address)
        assert connection._transport is not None
        connection._transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection._transport.write(token)
        return connection

    def ask(self, request: bytes, answer: asyncio.Future[Frame]) -> None:
        """Sends the request; `answer` gets the frame that comes, or `ConnectionClosedError`. Cancelled, close this."""
        assert self._transport is not None
        self._answer = answer
        if self._transport.is_closing():
            self.connection_lost(None)
        else:
            self._transport.write(request)

    def close(self) -> None:
        """Ends the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its type

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._received += data
        try:
            frame = take_frame(self._received)
        except ConnectionClosedError as error:
            self.connection_lost(error)
            self.close()
            return
        if frame is not None and self._answer is not None and not self._answer.done():
            self._answer.set_result(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(
                ConnectionClosedError(f"the connection was closed ({exc or 'by the other side'})")
            )
