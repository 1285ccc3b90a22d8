"""What exact search finds, over embeddings that come batch by batch: what the recall of an index is measured against.

Shape letters: `B` queries, `K` hits, `D` projection, `R` rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from realm_core.index.flat import exact_top_k
from realm_core.index.merge import merge_top_k
from realm_core.index.searcher import SearchHits, no_hits, validate_queries

if TYPE_CHECKING:
    import numpy as np


class ExactTopK:
    """The best rows of all that were added, with the ids that they were added under."""

    def __init__(self, queries_BD: np.ndarray, num_hits: int) -> None:
        self.queries_BD = validate_queries(queries_BD, dimension=queries_BD.shape[1], num_hits=num_hits)
        self._num_hits = num_hits
        self.hits = no_hits(len(queries_BD), num_hits)

    def add(self, embeddings_RD: np.ndarray, first_id: int) -> None:
        """Rows of consecutive ids."""
        found = exact_top_k(embeddings_RD, self.queries_BD, self._num_hits)
        found.rows_BK[found.rows_BK >= 0] += first_id
        self.hits = merge_top_k([self.hits, SearchHits(found.relevances_BK, found.rows_BK)], self._num_hits)
