"""The order of hits, and the exact merge of shards' lists.

Shape letters: `B` queries, `K` hits, `N` candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from realm_core.errors import QueryError
from realm_core.index.searcher import MISSING_ROW, SearchHits

_AFTER_ALL_IDS = np.iinfo(np.int64).max


_NUM_SPARE = 8
"""Candidates kept beyond those asked for, so that equal relevances at the cut are seldom more than are kept."""


def top_hits(relevances_BN: np.ndarray, ids_BN: np.ndarray, num_hits: int) -> SearchHits:
    """The `num_hits` best candidates: falling relevance, the smaller id first among equals, missing ones last."""
    relevances_BN = np.where(ids_BN < 0, np.float32(-np.inf), relevances_BN)
    num_kept = num_hits + _NUM_SPARE
    if relevances_BN.shape[1] <= 2 * num_kept:
        return _sorted(relevances_BN, ids_BN, num_hits)
    kept_BN = np.argpartition(-relevances_BN, num_kept - 1, axis=1)[:, :num_kept]
    kept_relevances_BN = np.take_along_axis(relevances_BN, kept_BN, axis=1)
    hits = _sorted(kept_relevances_BN, np.take_along_axis(ids_BN, kept_BN, axis=1), num_hits)
    last_B = hits.relevances_BK[:, -1]
    undecided = np.flatnonzero((kept_relevances_BN.min(axis=1) == last_B) & np.isfinite(last_B))
    if undecided.size:
        again = _sorted(relevances_BN[undecided], ids_BN[undecided], num_hits)
        hits.relevances_BK[undecided], hits.rows_BK[undecided] = again.relevances_BK, again.rows_BK
    return hits


def _sorted(relevances_BN: np.ndarray, ids_BN: np.ndarray, num_hits: int) -> SearchHits:
    """`top_hits` of candidates whose relevance is -inf where they are missing; skips what is in order already."""
    missing_BN = ids_BN < 0
    ids_BN = np.where(missing_BN, MISSING_ROW, ids_BN).astype(np.int64, copy=False)
    in_order_B = ((relevances_BN[:, 1:] < relevances_BN[:, :-1]) | missing_BN[:, 1:]).all(axis=1)
    relevances_BK, ids_BK = relevances_BN[:, :num_hits].copy(), ids_BN[:, :num_hits].copy()
    rows = np.flatnonzero(~in_order_B)
    if rows.size:
        sort_ids_BN = np.where(missing_BN[rows], _AFTER_ALL_IDS, ids_BN[rows])
        order_BK = np.lexsort((sort_ids_BN, -relevances_BN[rows]), axis=-1)[:, :num_hits]
        relevances_BK[rows] = np.take_along_axis(relevances_BN[rows], order_BK, axis=1)
        ids_BK[rows] = np.take_along_axis(ids_BN[rows], order_BK, axis=1)
    return SearchHits(relevances_BK, ids_BK).padded(num_hits)


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
