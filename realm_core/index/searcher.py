"""What every searcher is, takes and gives: top-k inner products over one index shard, nothing more.

Shape letters: `B` queries, `K` hits, `D` projection, `R` rows of the shard, `N` candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from realm_core.errors import GateError, QueryError
from realm_core.index.setting import SearchSetting

MISSING_ROW = -1
"""Stands where fewer hits were found than asked for; its relevance is -inf."""

_ROWS_PER_CHECK = 65_536
_SANE = "finite float32 values whose squares add up to a float32"


@dataclass(frozen=True, slots=True, eq=False)
class SearchHits:
    """The best rows of each query: falling relevance, the smaller row first among equals, missing hits last."""

    relevances_BK: np.ndarray
    """float32 inner products; -inf where there is no hit."""
    rows_BK: np.ndarray
    """int64 rows of the shard, or the block ids that stand in their place; -1 where there is no hit."""

    @property
    def num_queries(self) -> int:
        """`B`."""
        return int(self.rows_BK.shape[0])

    @property
    def num_hits(self) -> int:
        """`K`, missing hits counted."""
        return int(self.rows_BK.shape[1])

    def padded(self, num_hits: int) -> SearchHits:
        """The same hits in `num_hits` columns, with missing hits for those that were not found."""
        if num_hits <= self.num_hits:
            return self  # np.pad takes longer than a search of few queries
        extra = ((0, 0), (0, num_hits - self.num_hits))
        return SearchHits(
            np.pad(self.relevances_BK, extra, constant_values=-np.inf),
            np.pad(self.rows_BK, extra, constant_values=MISSING_ROW),
        )


class Searcher(Protocol):
    """Top-k inner products over the rows of one index shard."""

    @property
    def num_rows(self) -> int:
        """`R`."""

    @property
    def dimension(self) -> int:
        """`D`."""

    def search(self, queries_BD: np.ndarray, num_hits: int, setting: SearchSetting | None = None) -> SearchHits:
        """The `num_hits` best rows of each query; raises `QueryError` for queries that have no meaning.

        `setting` is for the kinds with leaves; left out, `realm_core.index.setting.DEFAULT_SETTING`.
        """

    def save(self, directory: Path) -> None:
        """Writes the files that `realm_core.index.build.load_searcher` reads; no pickle among them."""


def no_hits(num_queries: int, num_hits: int) -> SearchHits:
    """`[B, K]` missing hits."""
    shape = (num_queries, num_hits)
    return SearchHits(np.full(shape, -np.inf, dtype=np.float32), np.full(shape, MISSING_ROW, dtype=np.int64))


def validate_queries(queries_BD: np.ndarray, *, dimension: int, num_hits: int, where: str = "search") -> np.ndarray:
    """The queries as contiguous float32 `[B, D]`, `B` may be 0; raises `QueryError` for any that have no meaning."""
    if num_hits < 1:
        raise _query_error(where, f"num_hits = {num_hits}", "num_hits of at least 1", "Ask for one hit or more.")
    if queries_BD.ndim != 2 or queries_BD.shape[1] != dimension:
        raise _query_error(
            where,
            f"queries of shape {list(queries_BD.shape)}",
            f"shape [queries, {dimension}], the width of the indexed embeddings",
            "Embed the queries with the encoder of the snapshot that is searched; wrap a single query in a list.",
        )
    if queries_BD.dtype.kind != "f":
        action = "Pass the embedder's floating point output."
        raise _query_error(where, f"queries of type {queries_BD.dtype}", "a floating point type", action)
    with np.errstate(over="ignore"):
        queries_BD = np.ascontiguousarray(queries_BD, dtype=np.float32)
    bad_rows = np.flatnonzero(~_has_norm(queries_BD))
    if bad_rows.size:
        what = f"{bad_rows.size} of {len(queries_BD)} queries, the first at row {bad_rows[0]}"
        action = "Check the query text of that row and the encoder that embedded it."
        raise _query_error(where, f"{_what_is_wrong(queries_BD[bad_rows[0]])} in {what}", _SANE, action)
    return queries_BD


def _has_norm(vectors_RD: np.ndarray) -> np.ndarray:
    """[R]: True where all values are finite and so is their sum of squares, without which no product can be trusted."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares_R = np.einsum("rd,rd->r", vectors_RD, vectors_RD)
    is_finite_R: np.ndarray = np.isfinite(squares_R)
    return is_finite_R


def _what_is_wrong(vector_D: np.ndarray) -> str:
    return "values too large for float32 products" if np.isfinite(vector_D).all() else "NaN or infinity"


def _query_error(where: str, found: str, expected: str, action: str) -> QueryError:
    return QueryError(where=where, found=found, expected=expected, action=action)


def require_searchable(embeddings_RD: np.ndarray, *, where: str) -> None:
    """Raises `GateError` unless `[R, D]` float32, `R` and `D` at least 1, every value finite.

    Neither library refuses a NaN itself: FAISS indexes it without a word, ScaNN ends the process.
    """
    shape, dtype = embeddings_RD.shape, embeddings_RD.dtype
    if len(shape) != 2 or 0 in shape or dtype != np.float32:
        raise GateError(
            where=where,
            found=f"embeddings of shape {list(shape)} and type {dtype}",
            expected="float32 embeddings of shape [rows, dimension] with at least one row",
            action="Give the embeddings of at least one block, one row each, as float32.",
        )
    for start in range(0, shape[0], _ROWS_PER_CHECK):
        bad_rows = start + np.flatnonzero(~_has_norm(embeddings_RD[start : start + _ROWS_PER_CHECK]))
        if bad_rows.size:
            raise GateError(
                where=where,
                found=f"{_what_is_wrong(embeddings_RD[bad_rows[0]])} in the embedding of row {bad_rows[0]}",
                expected=_SANE,
                action="Look for a diverged checkpoint or an overflow in its precision, then embed the part again.",
            )
