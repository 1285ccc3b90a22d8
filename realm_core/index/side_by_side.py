"""Searching the shards of a snapshot in one process: side by side, each with its share of the cores.

One after the other, each on all cores, costs a barrier for every step of every shard; where other processes use the
cores too, that is a multiple of the search itself.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from realm_core.index.merge import merge_top_k

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from realm_core.index.searcher import SearchHits
    from realm_core.index.shards import ShardSearcher


class ShardsSideBySide:
    """All shards of a snapshot in this process."""

    def __init__(self, shards: Sequence[ShardSearcher]) -> None:
        self._shards = list(shards)
        num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # Torch, which `exact` is made with, has one number of threads for the whole process.
        num_threads = 1 if any(shard.kind == "exact" for shard in shards) else min(len(self._shards), num_cores)
        self._threads: ThreadPoolExecutor | None = None
        if num_threads > 1:
            self._threads = ThreadPoolExecutor(
                num_threads, "shard", initializer=_use_cores, initargs=(max(1, num_cores // num_threads),)
            )

    def search(self, queries_BD: np.ndarray, num_hits: int) -> SearchHits:
        """The best of all shards, with block ids."""
        if self._threads is None:
            found = [shard.search(queries_BD, num_hits) for shard in self._shards]
        else:
            found = list(self._threads.map(lambda shard: shard.search(queries_BD, num_hits), self._shards))
        return found[0] if len(found) == 1 else merge_top_k(found, num_hits)

    def close(self) -> None:
        """Ends the threads and lets go of the shards."""
        if self._threads is not None:
            self._threads.shutdown()
        self._shards = []


def _use_cores(num_cores: int) -> None:
    """OpenMP keeps the number for each thread of its own."""
    import faiss  # here: models and engines also run where there is no FAISS

    faiss.omp_set_num_threads(num_cores)
