"""Exact search by FAISS's blocked matrix product: for small shards, and to measure the recall of all others.

Needs no torch and no training, and reads the vectors where they lie, in memory or in a mapped file.
Relevances are float32 inner products with the float32 vectors, bit for bit those of `realm_core.index.exact`.

Shape letters: `B` queries, `K` hits, `D` projection, `R` rows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from realm_core.index.description import SearcherDescription
from realm_core.index.searcher import SearchHits, no_hits, require_searchable, validate_queries
from realm_core.index.setting import SearchSetting
from realm_core.index.settling import largest_norm, num_candidates, settle
from realm_core.index.specs import ResolvedSpec
from realm_core.index.vectors import load_vectors, save_vectors


class FlatSearcher:
    """Compares a query with every row."""

    def __init__(self, embeddings_RD: np.ndarray, spec: ResolvedSpec) -> None:
        self._embeddings_RD = embeddings_RD
        self._max_norm = largest_norm(embeddings_RD)
        self._spec = spec

    @classmethod
    def build(cls, embeddings_RD: np.ndarray, spec: ResolvedSpec) -> FlatSearcher:
        """Over the given array itself, which must not change afterwards."""
        require_searchable(embeddings_RD, where="flat index build")
        return cls(np.ascontiguousarray(embeddings_RD), spec)

    @classmethod
    def load(cls, directory: Path) -> FlatSearcher:
        """Over the memory-mapped file."""
        description = SearcherDescription.read(directory)
        return cls(load_vectors(directory, description), description.spec)

    @property
    def num_rows(self) -> int:
        """`R`."""
        return int(self._embeddings_RD.shape[0])

    @property
    def dimension(self) -> int:
        """`D`."""
        return int(self._embeddings_RD.shape[1])

    def search(self, queries_BD: np.ndarray, num_hits: int, setting: SearchSetting | None = None) -> SearchHits:  # noqa: ARG002 - nothing to set
        """The exact top `num_hits`, ties by the smaller row."""
        queries_BD = validate_queries(queries_BD, dimension=self.dimension, num_hits=num_hits)
        if not len(queries_BD):
            return no_hits(0, num_hits)
        num_found = min(num_hits, self.num_rows)
        import faiss  # here: models and engines also run where there is no FAISS

        relevances_BN, rows_BN = faiss.knn(
            queries_BD,
            self._embeddings_RD,
            num_candidates(num_found, self.num_rows),
            metric=faiss.METRIC_INNER_PRODUCT,
        )
        candidates = SearchHits(relevances_BN, rows_BN)
        hits = settle(self._embeddings_RD, queries_BD, candidates, num_found, max_norm=self._max_norm)
        return hits.padded(num_hits)

    def save(self, directory: Path) -> None:
        """Writes `embeddings.npy` and `searcher.json`."""
        SearcherDescription(spec=self._spec, num_rows=self.num_rows, dimension=self.dimension).write(directory)
        save_vectors(self._embeddings_RD, directory)


def exact_top_k(embeddings_RD: np.ndarray, queries_BD: np.ndarray, num_hits: int) -> SearchHits:
    """The exact top `num_hits` of float32 embeddings, which may be read-only or memory-mapped; nothing is copied."""
    return FlatSearcher.build(embeddings_RD, ResolvedSpec(kind="flat")).search(queries_BD, num_hits)
