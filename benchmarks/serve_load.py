"""Callers that search without a pause while snapshots are swapped; each answer is checked hit by hit.

Shape letters: `B` queries, `K` hits, `D` projection, `R` rows.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.retrieval_service import RetrievalClient
    from realm_core.retrieval.snapshot_search import SearchResult

NUM_HITS = 5
RELEVANCE_TOLERANCE = 2.0**-9
"""Relative: float16 vectors in the index and here are the same, sums differ in order."""


@dataclass(slots=True)
class Load:
    """What the callers saw."""

    started: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    num_failures: int = 0
    num_mixed: int = 0
    errors: list[str] = field(default_factory=list)
    swaps: list[tuple[float, float]] = field(default_factory=list)
    """When each swap began and ended."""


class Callers:
    """Threads that search until they are stopped; a context manager."""

    def __init__(
        self,
        client: RetrievalClient,
        queries_BD: np.ndarray,
        embeddings_by_snapshot: Mapping[str, np.ndarray],
        *,
        num_callers: int,
        queries_per_search: int,
    ) -> None:
        self.load = Load()
        self._client = client
        self._queries_BD = queries_BD
        self._embeddings_by_snapshot = embeddings_by_snapshot
        self._size = queries_per_search
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(caller,), daemon=True) for caller in range(num_callers)
        ]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, caller: int) -> None:
        generator = np.random.default_rng(caller)
        while not self._stop.is_set():
            start = int(generator.integers(len(self._queries_BD) - self._size + 1))
            queries_BD = self._queries_BD[start : start + self._size]
            started = time.monotonic()
            try:
                result = self._client.search(queries_BD, NUM_HITS)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is counted and shown
                with self._lock:
                    self.load.num_failures += 1
                    self.load.errors.append(f"{type(error).__name__}: {error}")
                continue
            seconds = time.monotonic() - started
            is_mixed = not is_of_one_snapshot(result, queries_BD, self._embeddings_by_snapshot)
            with self._lock:
                self.load.started.append(started)
                self.load.seconds.append(seconds)
                self.load.num_mixed += is_mixed


def is_of_one_snapshot(
    result: SearchResult, queries_BD: np.ndarray, embeddings_by_snapshot: Mapping[str, np.ndarray]
) -> bool:
    """True when each hit's relevance is that of its row in the snapshot that the result names."""
    if not embeddings_by_snapshot:
        return True  # nobody asked
    embeddings_RD = embeddings_by_snapshot[result.snapshot_id]
    if (result.block_ids_BK < 0).any():
        return False
    vectors_BKD = embeddings_RD[result.block_ids_BK].astype(np.float32)
    expected_BK = np.einsum("bkd,bd->bk", vectors_BKD, queries_BD)
    return bool(np.allclose(result.relevances_BK, expected_BK, rtol=RELEVANCE_TOLERANCE, atol=1e-2))


def p99_ratio(load: Load) -> tuple[float, float]:
    """The 99th percentile of searches that a swap overlapped, and of all others, in seconds."""
    started, seconds = np.array(load.started), np.array(load.seconds)
    is_during = np.zeros(len(started), dtype=bool)
    for begin, end in load.swaps:
        is_during |= (started < end) & (started + seconds > begin)
    return float(np.quantile(seconds[is_during], 0.99)), float(np.quantile(seconds[~is_during], 0.99))
