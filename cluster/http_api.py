"""A small HTTP front of the retrieval service, for people and for other languages; /docs shows what it takes."""

from __future__ import annotations

import json
import threading
import time
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import uvicorn
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from cluster.http_address import is_loopback, listen_on, parse_address, require_token, url_of
from cluster.http_docs import add_docs
from cluster.http_errors import RESPONSES, error_answer, explain_errors
from cluster.http_guard import guard_requests
from cluster.retrieval.batching import too_late
from realm_core.errors import OverloadedError, QueryError, ServiceUnavailableError
from realm_core.storage.snapshots import list_snapshots

if TYPE_CHECKING:
    from cluster.retrieval.client import RetrievalClient
    from realm_core.retrieval.snapshot_search import SearchResult

MAX_HITS = 1_000
MAX_QUERIES = 1_000
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


def make_app(client: RetrievalClient, *, token: str | None, is_on_loopback: bool) -> FastAPI:
    """The application; where there is a token, every path asks for `Authorization: Bearer TOKEN`."""
    app = FastAPI(
        title="REALM retrieval",
        version="1",
        description="Searches the blocks of a retrieval service.",
        docs_url=None,  # FastAPI's own page loads its scripts from another server
        redoc_url=None,
    )
    guard_requests(app, token=token, is_on_loopback=is_on_loopback)
    explain_errors(app)
    _add_search(app, client)
    _add_blocks(app, client)
    _add_health(app, client)
    add_docs(app)
    return app


class HttpApi:
    """Answers on one address until `close`. Anywhere but on loopback it takes a token.

    Raises:
        UsageError: the address is malformed, not this machine's, or its port is in use; or there is no token.
    """

    def __init__(self, address: str, client: RetrievalClient, token: str | None) -> None:
        require_token(address, token)
        self._socket = listen_on(address)
        app = make_app(client, token=token, is_on_loopback=is_loopback(parse_address(address)[0]))
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="http", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it answers."""
        return url_of(self._socket)

    def close(self) -> None:
        """Stops answering, after what it is answering."""
        self._server.should_exit = True
        self._thread.join(timeout=10.0)
        self._socket.close()


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

    @app.get("/search", responses=RESPONSES)
    async def search(
        asked: Request,
        q: Annotated[str, Query(min_length=1, max_length=MAX_TEXT_CHARACTERS, description="the text to search for")],
        k: NumHits = 5,
        deadline_seconds: DeadlineSeconds = DEADLINE_SECONDS,
    ) -> Response:
        """The blocks most relevant to a text, with their words."""
        unknown = sorted(set(asked.query_params) - {"q", "k", "deadline_seconds"})
        if unknown:
            raise _bad_query(f"the parameters {', '.join(unknown)}", "q, k and deadline_seconds alone")
        if not q.strip():
            raise _bad_query("an empty text", "words")
        request = SearchRequest(texts=[q], k=k, deadline_seconds=deadline_seconds, fields=["title", "body"])
        return await searches.run(request)

    @app.post("/search", responses=RESPONSES)
    async def search_many(request: SearchRequest) -> Response:
        """The blocks most relevant to each of many texts or query embeddings."""
        if (request.texts is None) == (request.query_embeddings is None):
            raise _bad_query("texts and query_embeddings, or neither", "one of them")
        if not all(text.strip() for text in request.texts or ()):
            raise _bad_query("an empty text", "words in each text")
        return await searches.run(request)


def _add_blocks(app: FastAPI, client: RetrievalClient) -> None:
    @app.get("/blocks/{block_id}", responses=RESPONSES)
    def block(block_id: int, snapshot: SnapshotId | None = None) -> JSONResponse:
        """A block of the live snapshot's corpus, or of another snapshot's."""
        snapshot_id = snapshot or client.live_snapshot().snapshot_id
        corpus_digest = client.corpus_of(snapshot_id)
        if block_id < 0:
            raise _bad_query(f"block id {block_id}", "0 or more", where="/blocks")
        try:
            found = client.fields_of(corpus_digest, np.array([[block_id]]), BLOCK_FIELDS)
        except QueryError as error:
            return error_answer(error, HTTPStatus.NOT_FOUND)
        record = {name: _plain(values[0][0]) for name, values in found.items()}
        return JSONResponse({"block_id": block_id, "snapshot": snapshot_id, **record})


def _add_health(app: FastAPI, client: RetrievalClient) -> None:
    @app.get("/healthz")
    async def health() -> dict[str, str]:
        """200 while this process answers, whatever becomes of the others."""
        return {"status": "alive"}

    @app.get("/readyz", responses=RESPONSES)
    def ready() -> JSONResponse:
        """200 when every router sees a process of every index shard; else 503."""
        status = client.status(timeout_seconds=READY_SECONDS)
        down = status.what_is_down()
        if down:
            raise ServiceUnavailableError(
                where="/readyz",
                found="; ".join(down),
                expected="every router up, with a healthy replica of every index shard",
                action="A process that died is restarted by itself: look again in a few seconds.",
            )
        return JSONResponse({"status": "ready", "live": status.snapshot.snapshot_id})

    @app.get("/snapshots", responses=RESPONSES)
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


def _bad_query(found: str, expected: str, *, where: str = "/search") -> QueryError:
    return QueryError(where=where, found=found, expected=expected, action="Correct the request; see /docs.")
