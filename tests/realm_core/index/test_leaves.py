from __future__ import annotations

import numpy as np

from realm_core.index.leaves import search_leaves
from realm_core.index.specs import ResolvedSpec

SPEC = ResolvedSpec(kind="faiss", num_leaves=10, num_leaves_searched=2, min_reordered=3)


class TenLeaves:
    """A hundred rows, ten to each leaf, row `i` of relevance `-i`; query 1's first leaves are empty."""

    def __init__(self) -> None:
        self.looks: list[tuple[int, int, int]] = []

    def __call__(self, queries_BD, num_reordered, num_leaves):
        self.looks.append((len(queries_BD), num_reordered, num_leaves))
        relevances = np.full((len(queries_BD), num_reordered), np.nan, np.float32)
        rows = np.full((len(queries_BD), num_reordered), -1)
        for query, is_unlucky in enumerate(queries_BD[:, 0]):
            num_found = 0 if is_unlucky and num_leaves < 10 else min(num_reordered, 10 * num_leaves)
            rows[query, :num_found] = np.arange(num_found)
            relevances[query, :num_found] = -np.arange(num_found)
        return relevances, rows


def test_a_query_whose_leaves_are_empty_is_searched_again_in_all_of_them():
    look = TenLeaves()
    hits = search_leaves(look, np.array([[0.0], [1.0], [0.0]]), 4, SPEC, 100)
    assert hits.rows_BK.tolist() == [[0, 1, 2, 3]] * 3
    assert look.looks == [(3, 16, 4), (1, 16, 10)]


def test_nothing_is_searched_again_when_nothing_is_missing():
    look = TenLeaves()
    hits = search_leaves(look, np.array([[0.0]]), 2, SPEC, 100)
    assert hits.rows_BK.tolist() == [[0, 1]]
    assert look.looks == [(1, 8, 2)]


def test_more_hits_than_rows_finds_every_row_and_pads():
    hits = search_leaves(TenLeaves(), np.array([[0.0], [1.0]]), 102, SPEC, 100)
    assert hits.rows_BK.tolist() == [[*range(100), -1, -1]] * 2
    assert np.isneginf(hits.relevances_BK[:, 100:]).all()
