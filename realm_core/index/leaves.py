"""How the searchers that cluster their rows look for hits: in enough leaves that none is missing.

Shape letters: `B` queries, `K` hits, `N` candidates.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from realm_core.index.merge import top_hits
from realm_core.index.searcher import SearchHits
from realm_core.index.specs import ResolvedSpec


class LookIntoLeaves(Protocol):
    """One call of the library: the best `num_reordered` rows in the `num_leaves` leaves nearest to each query."""

    def __call__(self, queries_BD: np.ndarray, num_reordered: int, num_leaves: int) -> tuple[np.ndarray, np.ndarray]:
        """Relevances and rows `[B, N]`, row -1 where there is none."""


def search_leaves(
    look: LookIntoLeaves, queries_BD: np.ndarray, num_hits: int, spec: ResolvedSpec, num_rows: int
) -> SearchHits:
    """The best `num_hits` rows of the leaves looked into; all `min(num_hits, num_rows)` of them are hits.

    Leaves are of uneven size: a query whose leaves hold too few rows is searched again in all of them.
    """
    num_reordered = spec.num_reordered(num_hits, num_rows)
    hits = top_hits(*look(queries_BD, num_reordered, spec.leaves_searched_for(num_hits, num_rows)), num_hits)
    short = np.flatnonzero(hits.rows_BK[:, min(num_hits, num_rows) - 1] < 0)
    if short.size:
        again = top_hits(*look(queries_BD[short], num_reordered, spec.num_leaves), num_hits)
        hits.relevances_BK[short] = again.relevances_BK
        hits.rows_BK[short] = again.rows_BK
    return hits
