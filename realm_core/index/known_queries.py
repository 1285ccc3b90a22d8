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
from realm_core.index.description import missing_file
from realm_core.index.setting import SearchSetting

if TYPE_CHECKING:
    from realm_core.index.searcher import Searcher
    from realm_core.index.truth import ExactTopK

NUM_KNOWN_QUERIES = 16
NUM_KNOWN_HITS = 10
MIN_KNOWN_RECALL = 0.5
"""An index that works finds nearly all of them; one that is loaded wrongly finds next to none."""

QUERIES_NAME = "known_queries.npy"
RELEVANCES_NAME = "known_relevances.npy"

_SETTING = SearchSetting(leaf_fraction=1.0, num_reordered=256)
"""Thorough: it is the process that is checked here, not how the snapshot is searched."""
_TOLERANCE = 2.0**-7
"""Of the largest relevance: indexes keep float16 vectors."""


def known_queries_of(embeddings_RD: np.ndarray) -> np.ndarray:
    """Rows evenly spread over a shard's first part, float32 `[B, D]`."""
    num_queries = min(NUM_KNOWN_QUERIES, len(embeddings_RD))
    return np.ascontiguousarray(embeddings_RD[np.arange(num_queries) * len(embeddings_RD) // num_queries])


def save_known(folder: Path, known: ExactTopK) -> None:
    """Writes the queries and the relevances of what exact search finds for them."""
    np.save(folder / QUERIES_NAME, known.queries_BD, allow_pickle=False)
    np.save(folder / RELEVANCES_NAME, known.hits.relevances_BK, allow_pickle=False)


def check_known(folder: Path, searcher: Searcher) -> float:
    """The share of known hits that the searcher finds, or others as relevant: of copies of a block any will do.

    Raises:
        ArtifactCorruptError: too few.
        ArtifactMissingError: a shard that was built without them.
    """
    for name in (QUERIES_NAME, RELEVANCES_NAME):
        if not (folder / name).is_file():
            raise missing_file(folder / name)
    queries_BD = np.load(folder / QUERIES_NAME, allow_pickle=False)
    known_BK = np.load(folder / RELEVANCES_NAME, allow_pickle=False)
    found_BK = searcher.search(queries_BD, NUM_KNOWN_HITS, _SETTING).relevances_BK
    is_wanted_BK = np.isfinite(known_BK)
    slack = _TOLERANCE * float(np.abs(known_BK[is_wanted_BK]).max(initial=0.0))
    recall = float((is_wanted_BK & (found_BK >= known_BK - slack)).sum() / is_wanted_BK.sum())
    if recall < MIN_KNOWN_RECALL:
        raise ArtifactCorruptError(
            where=str(folder),
            found=f"{recall:.0%} of the known hits of {len(known_BK)} known queries",
            expected=f"at least {MIN_KNOWN_RECALL:.0%}",
            action="Remove the index shard and run `realm index` again; the live snapshot goes on.",
        )
    return recall
