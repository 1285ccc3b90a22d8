"""A small HTTP front of the retrieval service, for people and for other languages.

GET /search?q=...&k=5   hits with title, body, relevance, snapshot and encoder step
GET /healthz            200 and the live snapshot while the service answers
"""

from __future__ import annotations

import errno
import ipaddress
import json
import logging
import secrets
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from realm_core.errors import QueryError, RealmError, UsageError

if TYPE_CHECKING:
    from cluster.retrieval_service import RetrievalClient
    from realm_core.retrieval.evidence import EvidenceRetriever

logger = logging.getLogger(__name__)

MAX_HITS = 1000
DEADLINE_SECONDS = 30.0


class HttpApi:
    """Answers on one address until `close`. Anywhere but on loopback it asks for `Authorization: Bearer TOKEN`.

    Raises:
        UsageError: the address is malformed, not this machine's, or its port is in use; or there is no token.
    """

    def __init__(self, address: str, client: RetrievalClient, retriever: EvidenceRetriever, token: str | None) -> None:
        host, port = parse_address(address)
        if not _is_loopback(host) and not token:
            raise UsageError(
                where=f"--http {address}",
                found="an address that other machines reach, and no token",
                expected="REALM_HTTP_TOKEN in the environment",
                action="Set it, or listen on 127.0.0.1.",
            )
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(client, retriever, token))
        except OSError as error:
            raise _cannot_listen(address, error) from error

    @property
    def url(self) -> str:
        """Where it answers."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def serve(self) -> None:
        """Answers until `close` is called from another thread, or the process is interrupted."""
        self._server.serve_forever()

    def close(self) -> None:
        """Stops answering."""
        self._server.shutdown()
        self._server.server_close()


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:8080` or `[::1]:8080`."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(
            where=f"--http {address}",
            found="no host and port",
            expected="such as 127.0.0.1:8080",
            action="Correct the address.",
        )
    return host.strip("[]"), int(port)


def _handler(client: RetrievalClient, retriever: EvidenceRetriever, token: str | None) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Authorization", "").encode("utf-8", "replace")
            if token and not secrets.compare_digest(given, f"Bearer {token}".encode()):
                self._send(HTTPStatus.UNAUTHORIZED, {"error": "expected Authorization: Bearer TOKEN"})
                return
            url = urlsplit(self.path)
            try:
                if url.path == "/search":
                    self._send(HTTPStatus.OK, _search(retriever, parse_qs(url.query)))
                elif url.path == "/healthz":
                    self._send(HTTPStatus.OK, {"snapshot": client.live_snapshot().snapshot_id})
                else:
                    self._send(HTTPStatus.NOT_FOUND, {"error": "expected /search?q=... or /healthz"})
            except QueryError as error:
                self._send(HTTPStatus.BAD_REQUEST, {"error": str(error)})
            except RealmError as error:
                self._send(HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)})
            except Exception as error:
                logger.exception("GET %s failed", url.path)
                self._send(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"{type(error).__name__}: {error}"})

        def log_message(self, *args: Any) -> None:  # noqa: ANN401 - the base class's signature
            """No line per request."""

        def _send(self, status: HTTPStatus, value: dict[str, Any]) -> None:
            body = json.dumps(value, ensure_ascii=False).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def _search(retriever: EvidenceRetriever, query: dict[str, list[str]]) -> dict[str, Any]:
    text, num_hits = " ".join(query.get("q", [])).strip(), " ".join(query.get("k", ["5"]))
    if not text or not num_hits.isdecimal() or len(num_hits) > 9 or not 1 <= int(num_hits) <= MAX_HITS:
        raise QueryError(
            where="/search",
            found=f"q={text!r}, k={num_hits!r}",
            expected=f"q not empty, k from 1 to {MAX_HITS}",
            action="Correct the query.",
        )
    result = retriever.retrieve([text], int(num_hits), deadline_seconds=DEADLINE_SECONDS)
    return {
        "snapshot": result.snapshot_id,
        "encoder_step": result.encoder_step,
        "hits": [asdict(block) for block in result.queries[0]],
    }


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _cannot_listen(address: str, error: OSError) -> UsageError:
    in_use = error.errno == errno.EADDRINUSE
    return UsageError(
        where=f"--http {address}",
        found="a port that is in use" if in_use else str(error),
        expected="a free port of this machine",
        action="Choose another port, or stop the process that listens there.",
    )
