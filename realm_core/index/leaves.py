"""How the searchers that cluster their rows look for hits: so that none is missing while there are rows.

Shape letters: `B` queries, `D` projection, `N` candidates.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from realm_core.index.merge import top_hits
from realm_core.index.searcher import SearchHits
from realm_core.index.setting import DEFAULT_SETTING, SearchSetting

_NUM_SPARE = 3
"""Hits that the library gives beyond those asked for: among equals, the smaller row may be one of them."""


class Leaves(Protocol):
    """A library's index; both looks give relevances and rows `[B, N]`, best first, row -1 where there is none."""

    @property
    def num_rows(self) -> int:
        """`R`."""

    @property
    def num_leaves(self) -> int:
        """Clusters of rows."""

    def look_into_leaves(
        self, queries_BD: np.ndarray, num_best: int, *, num_reordered: int, num_leaves: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The `num_best` rows of the `num_leaves` leaves nearest to each query, after reordering `num_reordered`."""

    def look_everywhere(self, queries_BD: np.ndarray, num_best: int) -> tuple[np.ndarray, np.ndarray]:
        """The `num_best` rows, however long it takes."""


def search_leaves(leaves: Leaves, queries_BD: np.ndarray, num_hits: int, setting: SearchSetting | None) -> SearchHits:
    """The best `num_hits` rows of the leaves looked into; `min(num_hits, R)` of them are hits, never fewer.

    Leaves are of uneven size: a query whose leaves held too few rows is searched again in all of them.
    """
    setting, num_rows = setting or DEFAULT_SETTING, leaves.num_rows
    num_best = min(num_rows, num_hits + _NUM_SPARE)
    found = leaves.look_into_leaves(
        queries_BD,
        num_best,
        num_reordered=setting.reordered_for(num_best, num_rows),
        num_leaves=setting.leaves_for(leaves.num_leaves, num_best, num_rows),
    )
    hits = top_hits(*found, num_hits)
    short = np.flatnonzero(hits.rows_BK[:, min(num_hits, num_rows) - 1] < 0)
    if short.size:
        again = top_hits(*leaves.look_everywhere(queries_BD[short], num_best), num_hits)
        hits.relevances_BK[short] = again.relevances_BK
        hits.rows_BK[short] = again.rows_BK
    return hits
