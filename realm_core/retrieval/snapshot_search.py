"""Searching a whole snapshot: what the retrieval service and the in-process searcher both offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from realm_core.index.searcher import validate_queries
from realm_core.index.setting import SearchSetting
from realm_core.index.shards import ShardSearcher
from realm_core.index.side_by_side import ShardsSideBySide
from realm_core.retrieval.uid_exclusion import UidExclusion
from realm_core.storage.block_store import load_corpus
from realm_core.storage.leases import reading
from realm_core.storage.snapshots import load_snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from realm_core.index.searcher import SearchHits
    from realm_core.retrieval.uid_exclusion import Uids
    from realm_core.storage.files import Store
    from realm_core.storage.snapshots import SnapshotManifest


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Top hits of B queries, all from one snapshot."""

    relevances_BK: np.ndarray
    """float32, falling; -inf where fewer than K were found."""
    block_ids_BK: np.ndarray
    """int64; -1 where fewer than K were found. Ties: smaller id first."""
    snapshot_id: str
    encoder_step: int
    """Training step of the encoder that made the snapshot's embeddings."""


class SnapshotSearch(Protocol):
    """Searches whatever snapshot is live."""

    def live_snapshot(self, *, deadline_seconds: float = 30.0) -> SnapshotManifest:
        """The snapshot that the next search is answered from, unless a swap comes between."""
        ...

    def corpus_of(self, snapshot_id: str) -> str:
        """Digest of the corpus that the block ids of a result belong to, also when another snapshot is live by now."""
        ...

    def search(
        self,
        queries_BD: np.ndarray,
        num_hits: int,
        *,
        deadline_seconds: float = 30.0,
        exclude_uids: Sequence[Uids] | None = None,
    ) -> SearchResult:
        """Top `num_hits` blocks of each query [B, D] by inner product, without those of the uids given for it."""
        ...


class LocalSnapshotSearch:
    """A snapshot of a store, searched in this process; garbage collection leaves it alone until `close`."""

    def __init__(self, store: Store, snapshot_id: str | None = None) -> None:
        self._manifest = load_snapshot(store, snapshot_id)
        self._lease = reading(store, self._manifest.snapshot_id)
        try:
            load_corpus(store, self._manifest.corpus_digest)
            setting = SearchSetting.from_json(self._manifest.search_setting)
            self._exclusion = UidExclusion(store)
            shards = [ShardSearcher(store, entry, setting) for entry in self._manifest.shards]
            self._shards = ShardsSideBySide(shards)
        except BaseException:
            self._lease.close()
            raise

    def close(self) -> None:
        """Gives the snapshot back; do not search it any more."""
        self._lease.close()
        self._shards.close()

    def live_snapshot(self, *, deadline_seconds: float = 30.0) -> SnapshotManifest:  # noqa: ARG002 - as in `search`
        """The snapshot that was opened."""
        return self._manifest

    def corpus_of(self, snapshot_id: str) -> str:  # noqa: ARG002 - there is one snapshot
        """Of the snapshot that was opened."""
        return self._manifest.corpus_digest

    def search(
        self,
        queries_BD: np.ndarray,
        num_hits: int,
        *,
        deadline_seconds: float = 30.0,  # noqa: ARG002 - nothing to wait for in process
        exclude_uids: Sequence[Uids] | None = None,
    ) -> SearchResult:
        """See `SnapshotSearch.search`. Raises `QueryError` for NaN, a wrong width or `num_hits` below 1."""
        validate_queries(queries_BD, dimension=self._manifest.dimension, num_hits=num_hits)
        num_searched = num_hits + self._exclusion.num_excluded(exclude_uids, len(queries_BD))
        result = result_of(self._shards.search(queries_BD, num_searched), self._manifest)
        if exclude_uids is None:
            return result
        return self._exclusion.apply(result, exclude_uids, num_hits, self._manifest)


def result_of(hits: SearchHits, manifest: SnapshotManifest) -> SearchResult:
    """Merged hits with the snapshot they come from."""
    return SearchResult(hits.relevances_BK, hits.rows_BK, manifest.snapshot_id, manifest.encoder_step)
