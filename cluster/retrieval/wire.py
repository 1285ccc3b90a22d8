"""What callers, routers and shards say to each other: frames on TCP connections.

Ray starts, names, places and restarts the processes; a search itself travels on connections of its own, because a hop
through Ray takes about a millisecond and each search makes two. A connection begins with the service's token, which
only reaches those who may call the service's actors (`cluster.retrieval.admission`). Frames hold JSON and raw
arrays, nothing that is executed.

A frame is two lengths (uint32, of header and body), a JSON header and a body of raw little-endian arrays.
Shape letters: `B` queries, `D` projection, `K` hits.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import realm_core.errors
from realm_core.errors import QueryError, RealmError, ServiceUnavailableError
from realm_core.index.searcher import SearchHits

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BODY_BYTES = 1 << 30
MAX_HEADER_BYTES = 1 << 20
PING = {"ping": True}
"""Header of a frame that is answered at once, by whatever is well, with an empty frame."""
_LENGTHS = struct.Struct("<II")
TOKEN_BYTES = 32
Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Frame:
    """One message."""

    header: Mapping[str, Any]
    body: bytes | memoryview = b""

    def parts(self) -> list[bytes | memoryview]:
        """What goes over the connection, in order."""
        header = json.dumps(self.header, separators=(",", ":")).encode()
        return [_LENGTHS.pack(len(header), len(self.body)) + header, self.body]


class ConnectionClosedError(ConnectionError):
    """The other side ended the connection, or sent what is no frame."""


def new_token() -> bytes:
    """A token for a service."""
    return secrets.token_bytes(TOKEN_BYTES)


def search_request(queries_BD: np.ndarray, num_hits: int, deadline_seconds: float) -> Frame:
    """A search for validated float32 queries."""
    header = {"shape": queries_BD.shape, "num_hits": num_hits, "deadline_seconds": deadline_seconds}
    return Frame(header, queries_BD.data.cast("B") if queries_BD.size else b"")


def queries_of(frame: Frame) -> np.ndarray:
    """The queries [B, D] of a search request; read-only. Raises `QueryError` where the body is not that many."""
    num_queries, dimension = frame.header["shape"]
    if len(frame.body) != 4 * num_queries * dimension:
        raise QueryError(
            where="search",
            found=f"{len(frame.body)} bytes for queries of shape {[num_queries, dimension]}",
            expected="float32 values of that shape",
            action="Use the client of the service's own version.",
        )
    return np.frombuffer(frame.body, dtype="<f4").reshape(num_queries, dimension)


def hits_frame(hits: SearchHits, **facts: Any) -> Frame:  # noqa: ANN401 - plain JSON values
    """The answer to a search, with what else is to be said of it."""
    relevances = np.ascontiguousarray(hits.relevances_BK, dtype="<f4")
    rows = np.ascontiguousarray(hits.rows_BK, dtype="<i8")
    return Frame({"shape": rows.shape, **facts}, relevances.tobytes() + rows.tobytes())


def hits_of(frame: Frame) -> SearchHits:
    """The hits of an answer; raises the error that it holds instead."""
    if "error" in frame.header:
        raise error_of(frame.header["error"])
    num_queries, num_hits = frame.header["shape"]
    split = 4 * num_queries * num_hits
    relevances = np.frombuffer(frame.body[:split], dtype="<f4").reshape(num_queries, num_hits)
    return SearchHits(relevances, np.frombuffer(frame.body[split:], dtype="<i8").reshape(num_queries, num_hits))


def error_frame(error: Exception) -> Frame:
    """An error as an answer; what is none of ours keeps its type's name in the text."""
    if isinstance(error, RealmError):
        facts = {"where": error.where, "found": error.found, "expected": error.expected, "action": error.action}
        return Frame({"error": {"kind": type(error).__name__, **facts}})
    facts = {
        "where": "retrieval service",
        "found": f"{type(error).__name__}: {error}",
        "expected": "an answer",
        "action": "Look into the logs of the service's processes.",
    }
    return Frame({"error": {"kind": "ServiceUnavailableError", **facts}})


def error_of(facts: Mapping[str, str]) -> RealmError:
    """The error of an answer, of its own type."""
    kind = getattr(realm_core.errors, facts["kind"], ServiceUnavailableError)
    texts = {name: facts[name] for name in ("where", "found", "expected", "action")}
    error: RealmError = kind(**texts)
    return error


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """The next frame; raises `ConnectionClosedError` at the end of the connection."""
    try:
        header_bytes, body_bytes = _LENGTHS.unpack(await reader.readexactly(_LENGTHS.size))
        _require_sane(header_bytes, body_bytes)
        data = await reader.readexactly(header_bytes + body_bytes)
    except asyncio.IncompleteReadError as error:
        raise ConnectionClosedError("the connection was closed") from error
    return _frame(data, header_bytes)


def take_frame(received: bytearray) -> Frame | None:
    """Takes the frame off that bytes received begin with; None where it is not whole yet.

    Raises `ConnectionClosedError` for what is no frame.
    """
    if len(received) < _LENGTHS.size:
        return None
    header_bytes, body_bytes = _LENGTHS.unpack_from(received)
    _require_sane(header_bytes, body_bytes)
    stop = _LENGTHS.size + header_bytes + body_bytes
    if len(received) < stop:
        return None
    data = bytes(memoryview(received)[_LENGTHS.size : stop])
    del received[:stop]
    return _frame(data, header_bytes)


def send_frame(connection: socket.socket, frame: Frame) -> None:
    """Sends a frame on a blocking socket."""
    head, body = frame.parts()
    if len(body) < 65_536:
        connection.sendall(bytes(head) + bytes(body))
        return
    connection.sendall(head)
    connection.sendall(body)


def receive_frame(connection: socket.socket) -> Frame:
    """The next frame of a blocking socket; raises `ConnectionClosedError` at its end."""
    header_bytes, body_bytes = _LENGTHS.unpack(_receive(connection, _LENGTHS.size))
    _require_sane(header_bytes, body_bytes)
    return _frame(_receive(connection, header_bytes + body_bytes), header_bytes)


def connect(address: Address, token: bytes, timeout_seconds: float) -> socket.socket:
    """A blocking connection that has shown the token."""
    connection = socket.create_connection(address, timeout=timeout_seconds)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(token)
    return connection


def _receive(connection: socket.socket, num_bytes: int) -> bytearray:
    data = bytearray(num_bytes)
    view = memoryview(data)
    while view:
        received = connection.recv_into(view)
        if not received:
            raise ConnectionClosedError("the connection was closed")
        view = view[received:]
    return data


def _require_sane(header_bytes: int, body_bytes: int) -> None:
    if header_bytes > MAX_HEADER_BYTES or body_bytes > MAX_BODY_BYTES:
        raise ConnectionClosedError(f"no frame: lengths of {header_bytes} and {body_bytes} bytes")


def _frame(data: bytes | bytearray, header_bytes: int) -> Frame:
    try:
        header = json.loads(bytes(data[:header_bytes]))
    except ValueError as error:
        raise ConnectionClosedError("no frame: its header is no JSON") from error
    return Frame(header, memoryview(data)[header_bytes:])
