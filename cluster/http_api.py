"""A small HTTP front of the retrieval service, for people and for other languages; /docs shows what it takes."""

from __future__ import annotations

import errno
import ipaddress
import secrets
import socket
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import uvicorn
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from realm_core.errors import (
    DeadlineExceededError,
    OverloadedError,
    QueryError,
    RealmError,
    ServiceUnavailableError,
    StoreError,
    UsageError,
)
from realm_core.storage.snapshots import list_snapshots

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cluster.retrieval.client import RetrievalClient
    from realm_core.retrieval.snapshot_search import SearchResult

MAX_HITS = 1_000
MAX_QUERIES = 1_000
MAX_BODY_BYTES = 32 << 20
MAX_DEADLINE_SECONDS = 300.0
DEADLINE_SECONDS = 30.0

NumHits = Annotated[int, Field(ge=1, le=MAX_HITS)]
DeadlineSeconds = Annotated[float, Field(gt=0, le=MAX_DEADLINE_SECONDS)]
FieldName = Literal["uid", "document_id", "title", "body", "title_token_ids", "body_token_ids"]
BLOCK_FIELDS: tuple[FieldName, ...] = (
    "uid",
    "document_id",
    "title",
    "body",
    "title_token_ids",
    "body_token_ids",
)

_STATUS = (
    (QueryError, HTTPStatus.BAD_REQUEST),
    (OverloadedError, HTTPStatus.SERVICE_UNAVAILABLE),
    (DeadlineExceededError, HTTPStatus.GATEWAY_TIMEOUT),
    (ServiceUnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (StoreError, HTTPStatus.NOT_FOUND),
)
RETRY_AFTER_SECONDS = 1


class SearchRequest(BaseModel):
    """What to search for: texts, or query embeddings of the snapshot's width."""

    model_config = ConfigDict(extra="forbid")

    texts: Annotated[list[str], Field(max_length=MAX_QUERIES)] | None = None
    query_embeddings: Annotated[list[list[float]], Field(max_length=MAX_QUERIES)] | None = None
    k: NumHits = 5
    deadline_seconds: DeadlineSeconds = DEADLINE_SECONDS
    exclude_uids: list[list[str]] | None = None
    """For each query, uids in hexadecimal that must not be among its hits."""
    fields: list[FieldName] = []
    """Fields of the blocks to answer with."""


def make_app(client: RetrievalClient, *, token: str | None, is_loopback: bool) -> FastAPI:
    """The application; every path but none asks for `Authorization: Bearer TOKEN` where there is a token."""
    app = FastAPI(title="REALM retrieval", version="1", description=__doc__ or "")
    _guard(app, token, is_loopback)
    _explain_errors(app)
    _add_search(app, client)
    _add_blocks_and_health(app, client)
    return app


class HttpApi:
    """Answers on one address until `close`. Anywhere but on loopback it takes a token.

    Raises:
        UsageError: the address is malformed, not this machine's, or its port is in use; or there is no token.
    """

    def __init__(self, address: str, client: RetrievalClient, token: str | None) -> None:
        require_token(address, token)
        host, port = parse_address(address)
        self._socket = _listen(address, host, port)
        app = make_app(client, token=token, is_loopback=is_loopback(host))
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="http", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it answers."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def close(self) -> None:
        """Stops answering, after what it is answering."""
        self._server.should_exit = True
        self._thread.join(timeout=10.0)
        self._socket.close()


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


def require_token(address: str, token: str | None) -> None:
    """Raises `UsageError` for an address that other machines reach and no token."""
    host, _ = parse_address(address)
    if not is_loopback(host) and not token:
        raise UsageError(
            where=f"--http {address}",
            found="an address that other machines reach, and no token",
            expected="REALM_HTTP_TOKEN in the environment",
            action="Set it, or listen on 127.0.0.1.",
        )


def is_loopback(host: str) -> bool:
    """True for addresses that only this machine reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _guard(app: FastAPI, token: str | None, is_on_loopback: bool) -> None:
    @app.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Awaitable[Any]]) -> Any:  # noqa: ANN401 - Starlette's signature
        given = request.headers.get("authorization", "").encode("utf-8", "replace")
        if token and not secrets.compare_digest(given, f"Bearer {token}".encode()):
            headers = {"WWW-Authenticate": "Bearer"}
            return _error(HTTPStatus.UNAUTHORIZED, "expected Authorization: Bearer TOKEN", headers=headers)
        # Without a token, a page in a browser of this machine could reach the service under a name of its own.
        if is_on_loopback and not token and not is_loopback(request.url.hostname or ""):
            return _error(HTTPStatus.MISDIRECTED_REQUEST, f"the host {request.url.hostname!r}; expected a loopback one")
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES or "transfer-encoding" in request.headers:
            return _error(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected a body of known length, at most {MAX_BODY_BYTES} bytes"
            )
        return await answer(request)


def _explain_errors(app: FastAPI) -> None:
    @app.exception_handler(RealmError)
    async def ours(_: Request, error: RealmError) -> JSONResponse:
        status = next((s for kind, s in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
        facts = {"where": error.where, "found": error.found, "expected": error.expected, "action": error.action}
        is_passing = status == HTTPStatus.SERVICE_UNAVAILABLE
        return _error(
            status, str(error), headers={"Retry-After": str(RETRY_AFTER_SECONDS)} if is_passing else {}, **facts
        )

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        return _error(HTTPStatus.BAD_REQUEST, "; ".join(problems))

    @app.exception_handler(404)
    async def unknown(request: Request, _: Exception) -> JSONResponse:
        return _error(HTTPStatus.NOT_FOUND, f"no {request.url.path}; /docs lists what there is")


def _add_search(app: FastAPI, client: RetrievalClient) -> None:
    @app.get("/search")
    def search(
        q: Annotated[str, Query(min_length=1, description="the text to search for")],
        k: NumHits = 5,
        deadline_seconds: DeadlineSeconds = DEADLINE_SECONDS,
    ) -> dict[str, Any]:
        """The blocks most relevant to a text, with their words."""
        if not q.strip():
            raise _bad_query("an empty text", "words")
        result = client.search_text([q], k, deadline_seconds=deadline_seconds)
        return _answer(client, result, ["title", "body"])

    @app.post("/search")
    def search_many(request: SearchRequest) -> dict[str, Any]:
        """The blocks most relevant to each of many texts or query embeddings."""
        if (request.texts is None) == (request.query_embeddings is None):
            raise _bad_query("texts and query_embeddings, or neither", "one of them")
        options: dict[str, Any] = {
            "deadline_seconds": request.deadline_seconds,
            "exclude_uids": None if request.exclude_uids is None else _uids(request.exclude_uids),
        }
        if request.texts is not None:
            if not all(text.strip() for text in request.texts):
                raise _bad_query("an empty text", "words in each text")
            result = client.search_text(request.texts, request.k, **options)
        else:
            result = client.search(_as_array(request.query_embeddings or []), request.k, **options)
        return _answer(client, result, request.fields)


def _add_blocks_and_health(app: FastAPI, client: RetrievalClient) -> None:
    @app.get("/blocks/{block_id}")
    def block(block_id: int, snapshot: str | None = None) -> JSONResponse:
        """A block of the live snapshot's corpus, or of another snapshot's."""
        snapshot_id = snapshot or client.live_snapshot().snapshot_id
        corpus_digest = client.corpus_of(snapshot_id)
        if block_id < 0:
            raise _bad_query(f"block id {block_id}", "0 or more")
        try:
            found = client.fields_of(corpus_digest, np.array([[block_id]]), BLOCK_FIELDS)
        except QueryError as error:
            return _error(HTTPStatus.NOT_FOUND, str(error))
        record = {name: _plain(values[0][0]) for name, values in found.items()}
        return JSONResponse({"block_id": block_id, "snapshot": snapshot_id, **record})

    @app.get("/healthz")
    def health() -> dict[str, str]:
        """200 while this process answers and a router does."""
        return {"snapshot": client.live_snapshot(deadline_seconds=5.0).snapshot_id}

    @app.get("/readyz")
    def ready() -> JSONResponse:
        """200 when every router sees a process of every index shard; else 503."""
        status = client.status()
        healthy = [None if router is None else list(router.num_healthy_replicas) for router in status.routers]
        code = HTTPStatus.OK if status.is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse({"ready": status.is_ready, "healthy_replicas_by_router": healthy}, status_code=code)

    @app.get("/snapshots")
    def snapshots() -> dict[str, Any]:
        """Ids of all snapshots in the store, and which of them is live."""
        live = client.live_snapshot()
        return {
            "live": live.snapshot_id,
            "encoder_step": live.encoder_step,
            "num_rows": live.num_rows,
            "snapshots": list_snapshots(client.store),
        }


def _answer(client: RetrievalClient, result: SearchResult, fields: list[FieldName]) -> dict[str, Any]:
    columns = client.blocks(result, fields) if fields else {}
    hits = [
        [
            {
                "block_id": block_id,
                "relevance": relevance,
                **{name: _plain(column[query][place]) for name, column in columns.items()},
            }
            for place, (block_id, relevance) in enumerate(zip(block_ids, relevances, strict=True))
            if block_id >= 0
        ]
        for query, (block_ids, relevances) in enumerate(
            zip(result.block_ids_BK.tolist(), result.relevances_BK.tolist(), strict=True)
        )
    ]
    return {"snapshot": result.snapshot_id, "encoder_step": result.encoder_step, "hits": hits}


def _plain(value: Any) -> Any:  # noqa: ANN401 - of a block record
    if isinstance(value, bytes):
        return value.hex()
    return value.tolist() if isinstance(value, np.ndarray) else value


def _as_array(embeddings: list[list[float]]) -> np.ndarray:
    if len({len(row) for row in embeddings}) > 1:
        raise _bad_query("query embeddings of different lengths", "the snapshot's width in each")
    return np.array(embeddings, dtype=np.float32).reshape(len(embeddings), -1)


def _uids(texts: list[list[str]]) -> list[list[bytes]]:
    try:
        return [[bytes.fromhex(text) for text in of_query] for of_query in texts]
    except ValueError as error:
        raise _bad_query(f"a uid that is no hexadecimal ({error})", "40 digits") from error


def _bad_query(found: str, expected: str) -> QueryError:
    return QueryError(where="/search", found=found, expected=expected, action="Correct the request; see /docs.")


def _error(status: HTTPStatus, message: str, *, headers: dict[str, str] | None = None, **facts: str) -> JSONResponse:
    return JSONResponse({"error": message, **facts}, status_code=status, headers=headers or {})


def _listen(address: str, host: str, port: int) -> socket.socket:
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(place[:2], family=family, backlog=512)
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        raise UsageError(
            where=f"--http {address}",
            found="a port that is in use" if in_use else str(error),
            expected="a free port of this machine",
            action="Choose another port, or stop the process that listens there.",
        ) from error
