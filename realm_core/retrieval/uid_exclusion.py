"""Leaves blocks out of hits by their uid: the trivial candidate of a query, above all.

Shape letters: `B` queries, `K` hits, `E` hits left out at most.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from realm_core.errors import QueryError
from realm_core.records import UID_BYTES
from realm_core.retrieval.corpus_records import CorpusRecords

if TYPE_CHECKING:
    from realm_core.retrieval.snapshot_search import SearchResult
    from realm_core.storage.files import Store
    from realm_core.storage.snapshots import SnapshotManifest

Uids = Collection[bytes]
"""Uids of 20 bytes each."""


class UidExclusion:
    """Looks up the uids of hits in a store's memory-mapped block records."""

    def __init__(self, store: Store) -> None:
        self._records = CorpusRecords(store)

    @staticmethod
    def num_excluded(exclude_uids: Sequence[Uids] | None, num_queries: int) -> int:
        """`E`: how many more hits to ask for, so that enough are left. Raises `QueryError` for what are no uids."""
        if exclude_uids is None:
            return 0
        if len(exclude_uids) != num_queries:
            found = f"{len(exclude_uids)} collections of uids for {num_queries} queries"
            raise _error(found, "one collection per query, which may be empty")
        for uids in exclude_uids:
            wrong = [uid for uid in uids if not isinstance(uid, bytes) or len(uid) != UID_BYTES]
            if wrong:
                found = repr(uids if isinstance(uids, bytes) else wrong[0])  # type: ignore[unreachable]
                raise _error(found, f"uids of {UID_BYTES} bytes, in a list or a set for each query")
        return max((len(set(uids)) for uids in exclude_uids), default=0)

    def apply(
        self, result: SearchResult, exclude_uids: Sequence[Uids], num_hits: int, snapshot: SnapshotManifest
    ) -> SearchResult:
        """The first `num_hits` of each query's `num_hits + E` hits whose uid is not to be left out."""
        records = self._records.of(snapshot.corpus_digest)
        left_out_BK = np.zeros(result.block_ids_BK.shape, dtype=bool)
        for query, uids in enumerate(exclude_uids):
            if uids:
                found_K = records.uids(result.block_ids_BK[query])
                left_out_BK[query] = np.isin(found_K, np.array(list(uids), dtype=f"S{UID_BYTES}"))
        order_BK = np.argsort(left_out_BK, axis=1, kind="stable")[:, :num_hits]
        return replace(
            result,
            relevances_BK=np.take_along_axis(result.relevances_BK, order_BK, axis=1),
            block_ids_BK=np.take_along_axis(result.block_ids_BK, order_BK, axis=1),
        )


def _error(found: str, expected: str) -> QueryError:
    return QueryError(
        where="search: exclude_uids",
        found=found,
        expected=expected,
        action="Pass the uids of the block records that the queries came from.",
    )
