"""Embedding a corpus with a pool of Ray actors: each part exactly once, whatever dies."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cluster.calls import get
from cluster.embedding_run import START_TIMEOUT_SECONDS, EmbeddingRun, EmbedResult
from cluster.embedding_workers import WorkerGroup, cluster_nodes
from realm_core.errors import DeadlineExceededError, ServiceUnavailableError
from realm_core.storage.embedding_store import EmbeddingSpec, embedding_path
from realm_core.storage.files import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from cluster.embedding_progress import EmbedProgress
    from cluster.resources import EmbeddingPlan
    from realm_core.engines.engine import EngineLoader
    from realm_core.storage.block_store import PartEntry

__all__ = ["EmbedResult", "EmbeddingPool", "cluster_nodes"]

QUERY_ATTEMPTS = 3


class EmbeddingPool:
    """Embedding actors, kept between runs. Actors may join and leave while it works; a dead one is replaced."""

    def __init__(self, store_url: str, plan: EmbeddingPlan, loader: EngineLoader, *, precision: str) -> None:
        """Asks for nothing yet.

        Args:
            store_url: holds parts and encoders, takes the embeddings; every node reaches it.
            plan: what an actor asks of Ray, and how many there may be.
            loader: loads the engine in each actor.
            precision: name of the arithmetic and the stored type, see `realm_core.engines.precision`.
        """
        self.precision = precision
        self._store = Store(store_url)
        self._plan = plan
        self._workers = WorkerGroup(self._store.url, plan, loader, precision)

    def start(self, *, most: int = 1_000_000) -> None:
        """Asks for the actors now, so that they are there when a run begins; returns at once."""
        self._workers.ask_for(most)

    def wait_until_ready(self, num_workers: int, *, timeout_seconds: float = START_TIMEOUT_SECONDS) -> None:
        """Waits until so many actors are there.

        Raises:
            DeadlineExceededError: fewer were there in time.
            RealmError: an actor cannot start.
        """
        deadline = time.monotonic() + timeout_seconds
        while len(self._workers.ready) < num_workers:
            self._workers.ask_for(num_workers)
            self._workers.take_all_started(timeout_seconds=1.0)
            if time.monotonic() > deadline:
                raise DeadlineExceededError(
                    where="embedding actors",
                    found=f"{len(self._workers.ready)} of {num_workers} after {timeout_seconds:g} s",
                    expected="all of them by then",
                    action="Look at `ray status`: the cluster may have no room for them.",
                )

    def embed(
        self,
        parts: Sequence[PartEntry],
        encoder_digest: str,
        *,
        progress: Callable[[EmbedProgress], None] = lambda _: None,
        poll_seconds: float = 1.0,
        groups: Sequence[int] | None = None,
        on_part: Callable[[int], None] = lambda _: None,
    ) -> EmbedResult:
        """Embeds all parts, largest first.

        Args:
            parts: what to embed.
            encoder_digest: with which encoder of the store.
            progress: called every `poll_seconds`, and at the end.
            poll_seconds: between two looks at the actors.
            groups: for each part, the number of its group: one group is embedded after the other.
            on_part: called with the index of each part whose embeddings are in the store, soon after they are. It must
                neither wait nor raise.

        Raises:
            RealmError: parts that failed, when all others are embedded; or an error that is about more than one part,
                at once, when the parts that were being embedded are finished.
            ServiceUnavailableError: no actor starts, or actors die again and again.
        """
        there = self._parts_with_files(parts, encoder_digest)
        if len(there) < len(parts):
            self._workers.use_encoder(encoder_digest)
        run = EmbeddingRun(
            self._workers, self._plan, parts, encoder_digest, there=there, groups=groups, on_part=on_part
        )
        watch_at = time.monotonic() + poll_seconds
        while not run.is_over:
            run.step(max(0.0, watch_at - time.monotonic()))
            if time.monotonic() >= watch_at:
                progress(run.watch())
                watch_at = time.monotonic() + poll_seconds
        result = run.result()
        progress(run.watch())
        return result

    def encode_queries(self, token_ids: Sequence[Sequence[int]], encoder_digest: str) -> np.ndarray:
        """Query embeddings [B, D], by one of the actors; if it dies, by another. All actors load the encoder meanwhile.

        Raises:
            RealmError: what the encoder raised, or actors that die again and again.
        """
        self._workers.use_encoder(encoder_digest)
        for attempt in range(QUERY_ATTEMPTS):
            self.wait_until_ready(1)
            worker = next(iter(self._workers.ready))
            ref = worker.actor.encode_queries.remote(token_ids, encoder_digest)
            try:
                embeddings: np.ndarray = get(ref, timeout_seconds=START_TIMEOUT_SECONDS, what="encoding of queries")
            except ServiceUnavailableError:
                self._workers.drop(worker)
                if attempt + 1 == QUERY_ATTEMPTS:
                    raise
            else:
                return embeddings
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Ends the actors."""
        self._workers.close()

    def _parts_with_files(self, parts: Sequence[PartEntry], encoder_digest: str) -> set[int]:
        """Indices of the parts whose embeddings have a file: no proof that it is whole, but one listing for all."""
        spec = EmbeddingSpec(encoder_digest=encoder_digest, precision=self.precision)
        names = {f"embeddings/{name}" for name in self._store.list("embeddings")}
        return {index for index, part in enumerate(parts) if embedding_path(spec.digest(part.digest)) in names}
