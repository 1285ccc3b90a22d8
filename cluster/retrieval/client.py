"""The service as trainers and drivers of the cluster see it."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.exceptions import RayError

from cluster.calls import get
from cluster.retrieval import wire
from cluster.retrieval.batching import too_late
from cluster.retrieval.finding import find_actor, find_service, not_there, require_cluster
from cluster.retrieval.generation import SERVICE_NAME
from cluster.retrieval.router_connections import RouterConnections
from cluster.retrieval.service_status import ServiceStatus, SwapResult
from cluster.retrieval.shard_processes import LOAD_TIMEOUT_SECONDS
from realm_core.errors import QueryError, RealmError, ServiceUnavailableError
from realm_core.index.searcher import validate_queries
from realm_core.retrieval.block_fields import BlockFields
from realm_core.retrieval.snapshot_search import SearchResult
from realm_core.retrieval.uid_exclusion import UidExclusion, Uids
from realm_core.storage.files import Store
from realm_core.storage.snapshots import SnapshotManifest, load_snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.retrieval.memory import SwapMemory, SwapMode
    from realm_core.retrieval.query_encoder import QueryEncoder

CONNECT_TIMEOUT_SECONDS = 10.0
DEADLINE_SECONDS = 30.0
RETRY_SECONDS = 0.05
SECONDS_BETWEEN_LOOKS = 1.0
"""For a service that was started in the place of one that does not answer."""
MAX_DEADLINE_SECONDS = 86_400.0


class RetrievalClient:
    """Searches, and swaps; may be used by several threads. Offers `SnapshotSearch`.

    A service that is stopped and started again on the same store is found again by the next call.
    """

    def __init__(self, controller: Any, routers: list[Any], token: bytes, store_url: str) -> None:  # noqa: ANN401 - actor handles are untyped
        self._use(controller, routers, token)
        self._turns = itertools.count()
        self._manifest: SnapshotManifest | None = None
        self._store = Store(store_url)
        self._exclusion = UidExclusion(self._store)
        self._fields = BlockFields(self._store)
        self._encoder: QueryEncoder | None = None
        self._encoder_lock = threading.Lock()

    @classmethod
    def connect(cls, *, timeout_seconds: float = CONNECT_TIMEOUT_SECONDS) -> RetrievalClient:
        """The client of the service that runs on this cluster.

        Raises:
            ServiceUnavailableError: none does, or it does not answer in time.
        """
        controller, routers, config = find_service(timeout_seconds)
        return cls(controller, routers, config.token, config.store_url)

    def close(self) -> None:
        """Ends the connections; a later search makes new ones."""
        for router in self._routers:
            router.close()

    @property
    def store(self) -> Store:
        """The store that is served: its block records and encoders are read by the client itself."""
        return self._store

    def search(
        self,
        queries_BD: np.ndarray,
        num_hits: int,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        exclude_uids: Sequence[Uids] | None = None,
    ) -> SearchResult:
        """Top `num_hits` blocks of each query [B, D] by inner product, all from one snapshot.

        Args:
            queries_BD: of any float type; B may be 0.
            num_hits: K; where the corpus has fewer blocks, -1 pads.
            deadline_seconds: how long to wait, also for a process that restarts meanwhile.
            exclude_uids: for each query, uids (20 bytes each) of blocks that must not be among its hits, such as the
                one that the query came from. Blocks that follow move up, so that K hits are left.

        Raises:
            QueryError: NaN, a wrong width, `num_hits` below 1, or not one collection of uids per query.
            OverloadedError: more searches wait than can be answered.
            DeadlineExceededError: no answer in time, for instance while a shard restarts.
            ServiceUnavailableError: no router answers.
        """
        num_excluded = self._exclusion.num_excluded(exclude_uids, len(queries_BD))
        result = self._search(queries_BD, num_hits + num_excluded if num_hits > 0 else num_hits, deadline_seconds)
        if exclude_uids is None or not len(queries_BD):
            return result
        return self._exclusion.apply(result, exclude_uids, num_hits, self._manifest_of(result.snapshot_id))

    def search_text(
        self,
        texts: Sequence[str],
        num_hits: int,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        exclude_uids: Sequence[Uids] | None = None,
    ) -> SearchResult:
        """`search` for texts, which this process embeds with the live snapshot's encoder."""
        require_texts(texts)
        return self._query_encoder().search_text(
            texts, num_hits, deadline_seconds=deadline_seconds, exclude_uids=exclude_uids
        )

    def _query_encoder(self) -> QueryEncoder:
        # Imported here: torch takes seconds, and the service's own processes embed nothing.
        from realm_core.retrieval.query_encoder import QueryEncoder

        with self._encoder_lock:
            if self._encoder is None:
                self._encoder = QueryEncoder(self._store, self)
            return self._encoder

    def blocks(self, result: SearchResult, fields: Sequence[str] = ("title", "body")) -> dict[str, list[list[Any]]]:
        """Fields of the hits' block records, `[B][K]` each; see `realm_core.retrieval.block_fields`.

        Of `uid`, `document_id`, `title`, `body`, `title_token_ids`, `body_token_ids`, `sentence_starts` and the salient
        spans. This process reads them from the store's memory-mapped records.
        """
        return self._fields.look_up(self.corpus_of(result.snapshot_id), result.block_ids_BK, fields)

    def fields_of(
        self, corpus_digest: str, block_ids_BK: np.ndarray, fields: Sequence[str]
    ) -> dict[str, list[list[Any]]]:
        """`blocks` for ids of a corpus. Raises `QueryError` for an id that is not there."""
        return self._fields.look_up(corpus_digest, block_ids_BK, fields)

    def corpus_of(self, snapshot_id: str) -> str:
        """Digest of the corpus that a snapshot's block ids belong to."""
        return self._manifest_of(snapshot_id).corpus_digest

    def live_snapshot(self, *, deadline_seconds: float = DEADLINE_SECONDS) -> SnapshotManifest:
        """The snapshot that searches are answered from now."""
        known = self._manifest.snapshot_id if self._manifest else ""
        if ray_client_is_used():
            return self._remember(self._ask_by_ray("manifest", deadline_seconds))
        answer = self._ask(wire.Frame({"live": known, "deadline_seconds": deadline_seconds}), deadline_seconds)
        if "error" in answer.header:
            raise wire.error_of(answer.header["error"])
        manifest = answer.header["manifest"]
        return self._remember(SnapshotManifest.from_json(manifest)) if manifest else self._manifest_of(known)

    def swap(self, snapshot_id: str, *, mode: SwapMode = "blue-green") -> SwapResult:
        """Makes a published snapshot live; returns after the old one has drained. Idempotent.

        Args:
            snapshot_id: published in the store, newer or older than the live one.
            mode: `blue-green` loads it beside the live one, in memory that is set aside for both; `in-place-per-shard`
                sets none aside and loads shard after shard, for memory-mapped kinds where two copies do not fit.

        Raises:
            StoreError: no such snapshot, or files of it are missing or damaged; the live one goes on.
            UsageError: no room for it.
            ServiceUnavailableError: its processes did not come up.
        """
        result: SwapResult = self._ask_controller("swap", 2 * LOAD_TIMEOUT_SECONDS, snapshot_id, mode)
        return result

    def prepare_swap(self, *, bytes_left_free: int = 0) -> None:
        """Says that a swap is about to come, so that processes for it start meanwhile; returns at once.

        They are as many as serve the live snapshot, are given as much memory, and are used by a swap to a snapshot that
        is divided in the same way, if one comes within ten minutes. Where there is no room for them none start.

        Args:
            bytes_left_free: memory that must be left beside them, for what else is yet to start before the swap.
        """
        require_cluster()
        self._controller.prepare_swap.remote(bytes_left_free)

    def memory_of_swap(self, snapshot_id: str) -> SwapMemory:
        """What a swap to that snapshot would take in memory, and what is free."""
        memory: SwapMemory = self._ask_controller("memory_of_swap", 60.0, snapshot_id)
        return memory

    def status(self, *, timeout_seconds: float = LOAD_TIMEOUT_SECONDS) -> ServiceStatus:
        """Waits until a snapshot is live, then says what the service has done."""
        status: ServiceStatus = self._ask_controller("status", timeout_seconds)
        return status

    def processes(self) -> dict[str, int]:
        """Process ids by actor name, of the controller, the routers and the live snapshot's shards."""
        processes: dict[str, int] = self._ask_controller("processes", 60.0)
        return processes

    def _ask_controller(self, method: str, timeout_seconds: float, *arguments: Any) -> Any:  # noqa: ANN401 - of any method
        require_cluster()
        what = " ".join((SERVICE_NAME, method, *map(str, arguments)))
        try:
            return get(getattr(self._controller, method).remote(*arguments), timeout_seconds=timeout_seconds, what=what)
        except ServiceUnavailableError:
            if not self._has_found_another(timeout_seconds):
                raise
        return get(getattr(self._controller, method).remote(*arguments), timeout_seconds=timeout_seconds, what=what)

    def _use(self, controller: Any, routers: list[Any], token: bytes) -> None:  # noqa: ANN401 - actor handles are untyped
        self._controller = controller
        self._routers = [RouterConnections(router, token) for router in routers]

    def _has_found_another(self, seconds: float) -> bool:
        """True where a service of the same store was started in the place of the one that this client knows.

        Raises:
            ServiceUnavailableError: one of another store was, whose block ids would be taken for this one's.
        """
        try:
            require_cluster()
            if find_actor(SERVICE_NAME) == self._controller:
                return False
            controller, routers, config = find_service(seconds)
        except (RealmError, RayError, OSError):  # there is none, or not yet
            return False
        if config.store_url != self._store.url:
            raise not_there(f"one of store {config.store_url}, where one of {self._store.url} was")
        self._use(controller, routers, config.token)
        return True

    def _search(self, queries_BD: np.ndarray, num_hits: int, deadline_seconds: float) -> SearchResult:
        queries_BD, num_hits, deadline_seconds = np.asarray(queries_BD), int(num_hits), float(deadline_seconds)
        _require_sane(queries_BD, num_hits, deadline_seconds)
        queries_BD = validate_queries(
            queries_BD, dimension=queries_BD.shape[-1] if queries_BD.ndim else 0, num_hits=num_hits
        )
        if ray_client_is_used():
            result: SearchResult = self._ask_by_ray("search", deadline_seconds, queries_BD, num_hits, deadline_seconds)
            return result
        answer = self._ask(wire.search_request(queries_BD, num_hits, deadline_seconds), deadline_seconds)
        hits = wire.hits_of(answer)
        facts = answer.header
        return SearchResult(hits.relevances_BK, hits.rows_BK, facts["snapshot_id"], facts["encoder_step"])

    def _ask(self, request: wire.Frame, deadline_seconds: float) -> wire.Frame:
        """The answer of whichever router gives one, tried in turn until the deadline."""
        deadline = time.monotonic() + deadline_seconds
        turn, error, looked_at = next(self._turns), None, time.monotonic()
        for attempt in itertools.count():
            seconds_left = deadline - time.monotonic()
            if seconds_left <= 0:
                break
            if time.monotonic() - looked_at >= SECONDS_BETWEEN_LOOKS:
                looked_at = time.monotonic()
                self._has_found_another(seconds_left)
            try:
                return self._routers[(turn + attempt) % len(self._routers)].ask(request, seconds_left)
            except TimeoutError as late:
                raise too_late(deadline_seconds) from late
            except (OSError, RayError, RealmError) as broken:
                error = broken
            if attempt % len(self._routers) == len(self._routers) - 1:
                time.sleep(min(RETRY_SECONDS, max(0.0, seconds_left)))
        raise ServiceUnavailableError(
            where="search",
            found=f"no router that answers in {deadline_seconds:g} s ({' '.join(str(error).split())})",
            expected=f"one of the {len(self._routers)} that the service has",
            action="Look whether the cluster and the service are there: `realm serve status`.",
        ) from error

    def _ask_by_ray(self, method: str, deadline_seconds: float, *arguments: Any) -> Any:  # noqa: ANN401 - of any router method
        router = self._routers[next(self._turns) % len(self._routers)].actor
        return get(getattr(router, method).remote(*arguments), timeout_seconds=deadline_seconds + 5.0, what="search")

    def _remember(self, manifest: SnapshotManifest) -> SnapshotManifest:
        self._manifest = manifest
        return manifest

    def _manifest_of(self, snapshot_id: str) -> SnapshotManifest:
        manifest = self._manifest
        if manifest is not None and manifest.snapshot_id == snapshot_id:
            return manifest
        return self._remember(load_snapshot(self._store, snapshot_id))


def _require_sane(queries_BD: np.ndarray, num_hits: int, deadline_seconds: float) -> None:
    """Raises `QueryError` for a deadline that is none, and for an answer that no frame holds."""
    if not 0 < deadline_seconds <= MAX_DEADLINE_SECONDS:
        raise QueryError(
            where="search",
            found=f"deadline_seconds = {deadline_seconds:g}",
            expected=f"above 0, at most {MAX_DEADLINE_SECONDS:g}",
            action="Say how long the search may take.",
        )
    num_bytes = 12 * queries_BD.shape[0] * num_hits if queries_BD.ndim else 0
    if num_bytes > wire.MAX_BODY_BYTES:
        raise QueryError(
            where="search",
            found=f"{num_hits:,} hits, uids to leave out among them, for each of {queries_BD.shape[0]:,} queries",
            expected=f"at most {wire.MAX_BODY_BYTES // 12:,} hits in all",
            action="Ask for fewer hits, or send the queries in several searches.",
        )


def require_texts(texts: Sequence[str]) -> None:
    """Raises `QueryError` for one text in place of several, and for a text without words."""
    wrong = (
        "one text" if isinstance(texts, str) else "a text without words" if any(not t.strip() for t in texts) else ""
    )
    if wrong:
        raise QueryError(
            where="search_text",
            found=wrong,
            expected="a list of texts, words in each",
            action="Wrap a single text in a list; leave empty ones out.",
        )


def ray_client_is_used() -> bool:
    """True in a driver that joined the cluster through `ray://`, which sees nothing of it but Ray's proxy."""
    return bool(ray.util.client.ray.is_connected())
