"""From the candidates of a fast matrix product to the exact answer, the same bits everywhere.

A matrix product rounds by the shape of its operands: with another batch, another shard or another library the same
pair of vectors differs in the last bits, and equal rows may come out unequal. So the product only proposes. The
relevance of each proposed pair is computed again, by additions in one fixed order that no vectorization can change;
and where a row left out might, within the rounding error, belong in, that query is searched again over all rows.
What results does not depend on batch, shard, thread count, library or device.

Shape letters: `B` queries, `N` candidates, `D` projection, `R` rows, `P` pairs.
"""

from __future__ import annotations

import numpy as np

from realm_core.index.merge import top_hits
from realm_core.index.searcher import SearchHits

_VALUES_PER_STEP = 1 << 21


def num_candidates(num_hits: int, num_rows: int) -> int:
    """How many candidates to propose, so that a second search is rare: near-ties are few, copies of a block fewer."""
    return min(num_rows, 2 * num_hits + 16)


def largest_norm(embeddings_RD: np.ndarray) -> float:
    """The largest Euclidean norm of a row; bounds the rounding error of an inner product."""
    rows_per_step = max(1, _VALUES_PER_STEP // embeddings_RD.shape[1])
    starts = range(0, len(embeddings_RD), rows_per_step)
    return max(float(np.linalg.norm(embeddings_RD[start : start + rows_per_step], axis=1).max()) for start in starts)


def settle(
    embeddings_RD: np.ndarray,
    queries_BD: np.ndarray,
    candidates: SearchHits,
    num_hits: int,
    *,
    max_norm: float,
    product_error: float = 0.0,
) -> SearchHits:
    """The exact `num_hits` (at most `R`) best rows, given the `num_candidates` best by an inexact product.

    Args:
        embeddings_RD: Of the shard.
        queries_BD: Validated.
        candidates: `[B, N]`, best first by the inexact product, none missing.
        num_hits: `K`.
        max_norm: `largest_norm(embeddings_RD)`.
        product_error: Relative error of one product beyond float32's rounding, for reduced matrix precisions.
    """
    rows_BN = candidates.rows_BK
    num_queries, num_proposed = rows_BN.shape
    queries_of_pairs = np.repeat(np.arange(num_queries), num_proposed)
    relevances_P = pair_relevances(embeddings_RD, queries_BD, rows_BN.ravel(), queries_of_pairs)
    hits = top_hits(relevances_P.reshape(rows_BN.shape), rows_BN, num_hits)
    if num_proposed == len(embeddings_RD):
        return hits
    error = product_error + embeddings_RD.shape[1] * float(np.finfo(np.float32).eps)
    slack_B = error * max_norm * np.linalg.norm(queries_BD, axis=1)
    undecided_B = candidates.relevances_BK[:, -1] + slack_B >= hits.relevances_BK[:, -1]
    for query in np.flatnonzero(undecided_B):
        threshold = float(hits.relevances_BK[query, -1] - slack_B[query])
        settled = _search_all_rows(embeddings_RD, queries_BD[query], threshold, num_hits)
        hits.relevances_BK[query] = settled.relevances_BK[0]
        hits.rows_BK[query] = settled.rows_BK[0]
    return hits


def _search_all_rows(embeddings_RD: np.ndarray, query_D: np.ndarray, threshold: float, num_hits: int) -> SearchHits:
    rows_N = np.flatnonzero(embeddings_RD @ query_D >= threshold)
    relevances_N = pair_relevances(embeddings_RD, query_D[None], rows_N, np.zeros(len(rows_N), dtype=np.int64))
    return top_hits(relevances_N[None], rows_N[None], num_hits)


def pair_relevances(
    embeddings_RD: np.ndarray, queries_BD: np.ndarray, rows_P: np.ndarray, queries_P: np.ndarray
) -> np.ndarray:
    """Inner products of rows and queries, pair by pair, float32 `[P]`: each a function of its two vectors alone."""
    relevances_P = np.empty(len(rows_P), dtype=np.float32)
    pairs_per_step = max(1, _VALUES_PER_STEP // embeddings_RD.shape[1])
    for start in range(0, len(rows_P), pairs_per_step):
        step = slice(start, start + pairs_per_step)
        relevances_P[step] = _sum_by_halves(embeddings_RD[rows_P[step]] * queries_BD[queries_P[step]])
    return relevances_P


def _sum_by_halves(products_PD: np.ndarray) -> np.ndarray:
    """Sums the last axis by adding its second half to its first until one value is left (a middle one goes first)."""
    while (width := products_PD.shape[1]) > 1:
        half = width // 2
        summed_PD = products_PD[:, :half] + products_PD[:, width - half :]
        products_PD = np.concatenate((products_PD[:, half : half + 1], summed_PD), axis=1) if width % 2 else summed_PD
    return products_PD[:, 0]
