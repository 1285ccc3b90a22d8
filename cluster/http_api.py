"""A small HTTP front of the retrieval service, for people and for other languages; /docs shows what it takes."""

from __future__ import annotations

import json
import secrets
import threading
import time
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import uvicorn
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from cluster.http_address import is_loopback, listen, parse_address, require_token
from cluster.http_docs import add_docs
from cluster.retrieval.batching import too_late
from realm_core.errors import (
    ArtifactCorruptError,
    ArtifactMissingError,
    DeadlineExceededError,
    OverloadedError,
    QueryError,
    RealmError,
    ServiceUnavailableError,
    StoreError,
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
MAX_TEXT_CHARACTERS = 10_000
"""A query is cut to 94 word pieces all the same."""
DEADLINE_SECONDS = 30.0
NUM_SEARCH_THREADS = 64
MAX_WAITING_SEARCHES = 1_024
READY_SECONDS = 5.0
"""What the controller has for saying how the service is."""

Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)]
SnapshotId = Annotated[str, Query(pattern=r"^[\w-]{1,100}$", description="by default the live one")]
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
    (ArtifactCorruptError, HTTPStatus.INTERNAL_SERVER_ERROR),
    (ArtifactMissingError, HTTPStatus.INTERNAL_SERVER_ERROR),
    (OverloadedError, HTTPStatus.SERVICE_UNAVAILABLE),
    (DeadlineExceededError, HTTPStatus.GATEWAY_TIMEOUT),
    (ServiceUnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (StoreError, HTTPStatus.NOT_FOUND),
)
RETRY_AFTER_SECONDS = 1
MAX_PROBLEMS = 5
"""Of a malformed request, as many as are told."""


class SearchRequest(BaseModel):
    """What to search for: texts, or query embeddings of the snapshot's width."""

    model_config = ConfigDict(extra="forbid")

    texts: Annotated[list[Text], Field(max_length=MAX_QUERIES)] | None = None
    query_embeddings: Annotated[list[list[float]], Field(max_length=MAX_QUERIES)] | None = None
    k: NumHits = 5
    deadline_seconds: DeadlineSeconds = DEADLINE_SECONDS
    exclude_uids: list[list[str]] | None = None
    """For each query, uids in hexadecimal that must not be among its hits."""
    fields: list[FieldName] = []
    """Fields of the blocks to answer with."""


def make_app(client: RetrievalClient, *, token: str | None, is_loopback: bool) -> FastAPI:
    """The application; every path but none asks for `Authorization: Bearer TOKEN` where there is a token."""
    # FastAPI's own pages fetch their scripts from elsewhere, which a cluster without a way out does not have.
    app = FastAPI(title="REALM retrieval", version="1", description=__doc__ or "", docs_url=None, redoc_url=None)
    _guard(app, token, is_loopback)
    _explain_errors(app)
    _add_search(app, client)
    _add_blocks_and_health(app, client)
    add_docs(app)
    return app


class ErrorAnswer(BaseModel):
    """Why there is no answer; the four facts where it is an error of the service's own."""

    error: str
    where: str | None = None
    found: str | None = None
    expected: str | None = None
    action: str | None = None


_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": what}
    for status, what in (
        ("default", "an error"),
        (400, "what makes no sense"),
        (401, "no token, or a wrong one"),
        (404, "no such block or snapshot"),
        (413, "too large a body"),
        (500, "a damaged store, or a fault of the program"),
        (503, "not ready, or too busy: try again"),
        (504, "no answer by the deadline"),
    )
}


class HttpApi:
    """Answers on one address until `close`. Anywhere but on loopback it takes a token.

    Raises:
        UsageError: the address is malformed, not this machine's, or its port is in use; or there is no token.
    """

    def __init__(self, address: str, client: RetrievalClient, token: str | None) -> None:
        require_token(address, token)
        host, port = parse_address(address)
        self._socket = listen(address, host, port)
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
    async def own(_: Request, error: RealmError) -> JSONResponse:
        status = next((s for kind, s in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
        return _error_of(error, status)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        more = f"; {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
        ours = QueryError(
            where=f"{request.method} {request.url.path}",
            found="; ".join(problems[:MAX_PROBLEMS]) + more,
            expected="what /docs lists",
            action="Correct the request.",
        )
        return _error_of(ours, HTTPStatus.BAD_REQUEST)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        what = f"{request.method} {request.url.path}: {error.detail}; /docs lists what there is"
        return _error(HTTPStatus(error.status_code), what, headers=dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> JSONResponse:  # uvicorn logs its traceback
        return _error(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}; the log of the front has it")


class _Searches:
    """Runs searches in threads of their own, so that whatever else is asked for is answered while they wait."""

    def __init__(self, client: RetrievalClient) -> None:
        self._client = client
        self._num_waiting = 0
        self._limiter: CapacityLimiter | None = None

    async def run(self, request: SearchRequest) -> Response:
        """The answer, as JSON that the thread has written."""
        if self._num_waiting >= MAX_WAITING_SEARCHES:
            raise OverloadedError(
                where="/search",
                found=f"{self._num_waiting:,} searches that wait already",
                expected=f"fewer than {MAX_WAITING_SEARCHES:,}",
                action="Send fewer at a time, many texts in each, and try again.",
            )
        self._limiter = self._limiter or CapacityLimiter(NUM_SEARCH_THREADS)  # takes a running event loop
        self._num_waiting += 1
        deadline = time.monotonic() + request.deadline_seconds
        try:
            body = await to_thread.run_sync(partial(self._search, request, deadline), limiter=self._limiter)
        finally:
            self._num_waiting -= 1
        return Response(body, media_type="application/json")

    def _search(self, request: SearchRequest, deadline: float) -> bytes:
        seconds_left = deadline - time.monotonic()
        if seconds_left <= 0:
            raise too_late(request.deadline_seconds)
        excluded = None if request.exclude_uids is None else _uids(request.exclude_uids)
        if request.texts is not None:
            result = self._client.search_text(
                request.texts, request.k, deadline_seconds=seconds_left, exclude_uids=excluded
            )
        else:
            queries_BD = _as_array(request.query_embeddings or [])
            result = self._client.search(queries_BD, request.k, deadline_seconds=seconds_left, exclude_uids=excluded)
        return json.dumps(_answer(self._client, result, request.fields), ensure_ascii=False).encode()


def _add_search(app: FastAPI, client: RetrievalClient) -> None:
    searches = _Searches(client)

    @app.get("/search", responses=_RESPONSES)
    async def search(
        q: Annotated[str, Query(min_length=1, max_length=MAX_TEXT_CHARACTERS, description="the text to search for")],
        k: NumHits = 5,
        deadline_seconds: DeadlineSeconds = DEADLINE_SECONDS,
    ) -> Response:
        """The blocks most relevant to a text, with their words."""
        if not q.strip():
            raise _bad_query("an empty text", "words")
        request = SearchRequest(texts=[q], k=k, deadline_seconds=deadline_seconds, fields=["title", "body"])
        return await searches.run(request)

    @app.post("/search", responses=_RESPONSES)
    async def search_many(request: SearchRequest) -> Response:
        """The blocks most relevant to each of many texts or query embeddings."""
        if (request.texts is None) == (request.query_embeddings is None):
            raise _bad_query("texts and query_embeddings, or neither", "one of them")
        if not all(text.strip() for text in request.texts or ()):
            raise _bad_query("an empty text", "words in each text")
        return await searches.run(request)


def _add_blocks_and_health(app: FastAPI, client: RetrievalClient) -> None:
    @app.get("/blocks/{block_id}", responses=_RESPONSES)
    def block(block_id: int, snapshot: SnapshotId | None = None) -> JSONResponse:
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
    async def health() -> dict[str, str]:
        """200 while this process answers, whatever becomes of the others."""
        return {"status": "alive"}

    @app.get("/readyz", responses=_RESPONSES)
    def ready() -> JSONResponse:
        """200 when every router sees a process of every index shard; else 503."""
        status = client.status(timeout_seconds=READY_SECONDS)
        down = status.what_is_down()
        if down:
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, "; ".join(down), headers=headers)
        return JSONResponse({"status": "ready", "live": status.snapshot.snapshot_id})

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


def _error_of(error: RealmError, status: HTTPStatus) -> JSONResponse:
    facts = {"where": error.where, "found": error.found, "expected": error.expected, "action": error.action}
    is_passing = status == HTTPStatus.SERVICE_UNAVAILABLE
    return _error(status, str(error), headers={"Retry-After": str(RETRY_AFTER_SECONDS)} if is_passing else {}, **facts)


def _error(status: HTTPStatus, message: str, *, headers: dict[str, str] | None = None, **facts: str) -> JSONResponse:
    return JSONResponse({"error": message, **facts}, status_code=status, headers=headers or {})
