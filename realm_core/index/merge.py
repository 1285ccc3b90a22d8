"""The order of hits, and the exact merge of shards' lists.

Shape letters: `B` queries, `K` hits, `N` candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from realm_core.errors import QueryError
from realm_core.index.searcher import MISSING_ROW, SearchHits

_AFTER_ALL_IDS = np.iinfo(np.int64).max


def top_hits(relevances_BN: np.ndarray, ids_BN: np.ndarray, num_hits: int) -> SearchHits:
    """The `num_hits` best candidates: falling relevance, the smaller id first among equals, missing ones last."""
    missing_BN = ids_BN < 0
    relevances_BN = np.where(missing_BN, np.float32(-np.inf), relevances_BN)
    sort_ids_BN = np.where(missing_BN, _AFTER_ALL_IDS, ids_BN)
    order_BK = np.lexsort((sort_ids_BN, -relevances_BN), axis=-1)[:, :num_hits]
    ids_BK = np.take_along_axis(np.where(missing_BN, MISSING_ROW, ids_BN), order_BK, axis=1)
    hits = SearchHits(np.take_along_axis(relevances_BN, order_BK, axis=1), ids_BK.astype(np.int64, copy=False))
    return hits.padded(num_hits)


def merge_top_k(hits: Sequence[SearchHits], num_hits: int) -> SearchHits:
    """The `num_hits` best of all lists, exactly: as if the union of the lists were sorted.

    Args:
        hits: One list per shard, for the same queries, with block ids in place of rows, each in one list
            only. Each must hold its shard's `num_hits` best for the result to be the best of the whole.
        num_hits: `K` of the result; missing hits fill it where the lists hold fewer.
    """
    if num_hits < 1 or not hits or len({shard.num_queries for shard in hits}) != 1:
        raise QueryError(
            where="merge of the shards' hits",
            found=f"num_hits = {num_hits} and lists for {[shard.num_queries for shard in hits]} queries",
            expected="num_hits of at least 1 and one list per shard, all for the same queries",
            action="Send every shard the same batch and wait for all of their answers.",
        )
    relevances_BN = np.concatenate([shard.relevances_BK for shard in hits], axis=1)
    ids_BN = np.concatenate([shard.rows_BK for shard in hits], axis=1)
    return top_hits(relevances_BN, ids_BN, num_hits)
