"""Queries whose exact hits are written beside an index: what a process that has loaded it is checked with.

Checksums say that the files are those that were written; known queries say that this process finds in them what is to
be found. The queries are rows of the shard itself, so that they follow from its embeddings alone.

Shape letters: `B` queries, `K` hits, `D` projection, `R` rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from realm_core.errors import ArtifactCorruptError

if TYPE_CHECKING:
    from realm_core.index.searcher import SearchHits
    from realm_core.index.truth import ExactTopK

NUM_KNOWN_QUERIES = 16
NUM_KNOWN_HITS = 10
MIN_KNOWN_RECALL = 0.5
"""An index that works finds nearly all of them; one that is loaded wrongly finds next to none."""

QUERIES_NAME = "known_queries.npy"
ROWS_NAME = "known_rows.npy"


def known_queries_of(embeddings_RD: np.ndarray) -> np.ndarray:
    """Rows evenly spread over a shard's first part, float32 `[B, D]`."""
    num_queries = min(NUM_KNOWN_QUERIES, len(embeddings_RD))
    return np.ascontiguousarray(embeddings_RD[np.arange(num_queries) * len(embeddings_RD) // num_queries])


def save_known(folder: Path, known: ExactTopK) -> None:
    """Writes the queries and the rows that exact search finds for them."""
    np.save(folder / QUERIES_NAME, known.queries_BD, allow_pickle=False)
    np.save(folder / ROWS_NAME, known.hits.rows_BK, allow_pickle=False)


def load_known_queries(folder: Path) -> np.ndarray:
    """Float32 `[B, D]`."""
    queries_BD: np.ndarray = np.load(folder / QUERIES_NAME, allow_pickle=False)
    return queries_BD


def check_known(folder: Path, found: SearchHits) -> float:
    """Recall of the known hits by those found for `load_known_queries`.

    Raises:
        ArtifactCorruptError: too few were found.
    """
    rows_BK = np.load(folder / ROWS_NAME, allow_pickle=False)
    is_wanted_BK = rows_BK >= 0
    is_found_BK = (rows_BK[:, :, None] == found.rows_BK[:, None, :]).any(axis=2) & is_wanted_BK
    recall = float(is_found_BK.sum() / is_wanted_BK.sum())
    if recall < MIN_KNOWN_RECALL:
        raise ArtifactCorruptError(
            where=str(folder),
            found=f"{recall:.0%} of the known hits of {len(rows_BK)} known queries",
            expected=f"at least {MIN_KNOWN_RECALL:.0%}",
            action="Remove the index shard and run `realm index` again; the live snapshot goes on.",
        )
    return recall
