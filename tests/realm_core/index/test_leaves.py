from __future__ import annotations

import numpy as np

from realm_core.index.leaves import search_leaves
from realm_core.index.setting import SearchSetting

SETTING = SearchSetting(leaf_fraction=0.2, num_reordered=15)


class TenLeaves:
    """A hundred rows, ten to each leaf, row `i` of relevance `-i`; the leaves near a query of 1.0 are empty."""

    num_rows = 100
    num_leaves = 10

    def __init__(self) -> None:
        self.looks: list[tuple[str, int, int]] = []

    def look_into_leaves(self, queries_BD, num_best, *, num_reordered, num_leaves):
        self.looks.append((f"{num_leaves} leaves, {num_reordered} reordered", len(queries_BD), num_best))
        return self._best([0 if is_unlucky else 10 * num_leaves for is_unlucky in queries_BD[:, 0]], num_best)

    def look_everywhere(self, queries_BD, num_best):
        self.looks.append(("everywhere", len(queries_BD), num_best))
        return self._best([100] * len(queries_BD), num_best)

    def _best(self, nums_found, num_best):
        relevances = np.full((len(nums_found), num_best), np.nan, np.float32)
        rows = np.full((len(nums_found), num_best), -1)
        for query, num_found in enumerate(nums_found):
            num_found = min(num_best, num_found)
            rows[query, :num_found] = np.arange(num_found)
            relevances[query, :num_found] = -np.arange(num_found)
        return relevances, rows


def test_a_query_whose_leaves_are_empty_is_searched_again_in_all_of_them():
    look = TenLeaves()
    hits = search_leaves(look, np.array([[0.0], [1.0], [0.0]]), 4, SETTING)
    assert hits.rows_BK.tolist() == [[0, 1, 2, 3]] * 3
    assert look.looks == [("6 leaves, 15 reordered", 3, 7), ("everywhere", 1, 7)]


def test_nothing_is_searched_again_when_nothing_is_missing():
    look = TenLeaves()
    hits = search_leaves(look, np.array([[0.0]]), 2, SETTING)
    assert hits.rows_BK.tolist() == [[0, 1]]
    assert look.looks == [("4 leaves, 15 reordered", 1, 5)]


def test_more_hits_than_rows_finds_every_row_and_pads():
    hits = search_leaves(TenLeaves(), np.array([[0.0], [1.0]]), 102, SETTING)
    assert hits.rows_BK.tolist() == [[*range(100), -1, -1]] * 2
    assert np.isneginf(hits.relevances_BK[:, 100:]).all()
