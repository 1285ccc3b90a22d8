from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_core.errors import QueryError
from realm_core.index.merge import merge_top_k, top_hits
from realm_core.index.searcher import SearchHits


def hits_of(pairs: list[tuple[float, int]], num_columns: int) -> SearchHits:
    """One query's hits, unsorted pairs of relevance and id, padded."""
    relevances = np.array([[relevance for relevance, _ in pairs]], dtype=np.float32).reshape(1, -1)
    ids = np.array([[block_id for _, block_id in pairs]], dtype=np.int64).reshape(1, -1)
    return top_hits(relevances, ids, num_columns)


def pairs_of(hits: SearchHits) -> list[tuple[float, int]]:
    return list(zip(hits.relevances_BK[0].tolist(), hits.rows_BK[0].tolist(), strict=True))


def best_of(pairs: list[tuple[float, int]], num_hits: int) -> list[tuple[float, int]]:
    best = sorted(pairs, key=lambda pair: (-pair[0], pair[1]))[:num_hits]
    return best + [(-np.inf, -1)] * (num_hits - len(best))


# Few distinct relevances, so that most lists have ties; ids are unique over all shards.
shards_of_pairs = st.lists(
    st.tuples(st.sampled_from([-2.0, -0.5, 0.0, 1.0, 1.5]), st.integers(0, 2**62)),
    max_size=24,
    unique_by=lambda pair: pair[1],
).flatmap(
    lambda pairs: st.lists(st.integers(0, 2), min_size=len(pairs), max_size=len(pairs)).map(
        lambda owners: [[p for p, o in zip(pairs, owners, strict=True) if o == shard] for shard in range(3)]
    )
)


def test_hand_sorted_example():
    first = SearchHits(
        np.array([[3.0, 1.0], [0.5, -np.inf]], np.float32), np.array([[10, 40], [7, -1]], dtype=np.int64)
    )
    second = SearchHits(np.array([[3.0, 2.0], [0.5, 0.25]], np.float32), np.array([[2, 30], [6, 1]], dtype=np.int64))
    merged = merge_top_k([first, second], 3)
    assert merged.rows_BK.tolist() == [[2, 10, 30], [6, 7, 1]]
    assert merged.relevances_BK.tolist() == [[3.0, 3.0, 2.0], [0.5, 0.5, 0.25]]
    assert merged.relevances_BK.dtype == np.float32
    assert merged.rows_BK.dtype == np.int64


def test_a_missing_hit_comes_after_any_hit_whatever_relevance_it_carries():
    hits = top_hits(np.array([[9.0, -1e30, np.nan]], np.float32), np.array([[-1, 5, -1]]), 3)
    assert pairs_of(hits) == [(pytest.approx(-1e30), 5), (-np.inf, -1), (-np.inf, -1)]


def test_signed_zeros_tie():
    assert top_hits(np.array([[-0.0, 0.0]], np.float32), np.array([[1, 2]]), 2).rows_BK.tolist() == [[1, 2]]


@given(shards=shards_of_pairs, num_hits=st.integers(1, 8), wider=st.integers(0, 3))
def test_merge_equals_sorting_the_union(shards, num_hits, wider):
    merged = merge_top_k([hits_of(pairs, num_hits + wider) for pairs in shards], num_hits)
    assert pairs_of(merged) == best_of([pair for pairs in shards for pair in pairs], num_hits)


@given(shards=shards_of_pairs, num_hits=st.integers(1, 8))
def test_merge_is_associative_and_order_does_not_matter(shards, num_hits):
    a, b, c = (hits_of(pairs, num_hits) for pairs in shards)
    left = merge_top_k([merge_top_k([a, b], num_hits), c], num_hits)
    right = merge_top_k([a, merge_top_k([b, c], num_hits)], num_hits)
    swapped = merge_top_k([c, a, b], num_hits)
    assert pairs_of(left) == pairs_of(right) == pairs_of(swapped)


def test_an_empty_batch_merges_to_an_empty_batch():
    empty = SearchHits(np.empty((0, 2), np.float32), np.empty((0, 2), np.int64))
    assert merge_top_k([empty, empty], 5).rows_BK.shape == (0, 5)


def test_lists_for_different_batches_are_refused():
    with pytest.raises(QueryError, match=r"lists for \[1, 2\] queries"):
        merge_top_k([hits_of([], 2), SearchHits(np.zeros((2, 1), np.float32), np.zeros((2, 1), np.int64))], 1)


@pytest.mark.parametrize(("hits", "num_hits"), [([], 1), ([hits_of([], 2)], 0)])
def test_no_lists_and_no_hits_are_refused(hits, num_hits):
    with pytest.raises(QueryError):
        merge_top_k(hits, num_hits)


@given(
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(1, 90),
    st.integers(0, 3),
    st.integers(0, 2**32 - 1),
)
def test_the_best_of_many_candidates_are_those_of_a_plain_sort(num_queries, num_hits, num_candidates, spread, seed):
    generator = np.random.default_rng(seed)
    relevances = generator.integers(0, 10**spread, size=(num_queries, num_candidates)).astype(np.float32)
    ids = np.stack([generator.permutation(num_candidates) for _ in range(num_queries)])
    ids[generator.random(ids.shape) < 0.2] = -1
    hits = top_hits(relevances, ids, num_hits)
    for query in range(num_queries):
        present = sorted((-r, i) for r, i in zip(relevances[query], ids[query], strict=True) if i >= 0)[:num_hits]
        num_missing = num_hits - len(present)
        assert hits.rows_BK[query].tolist() == [i for _, i in present] + [-1] * num_missing
        assert hits.relevances_BK[query].tolist() == [-r for r, _ in present] + [-np.inf] * num_missing
