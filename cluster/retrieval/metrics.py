"""What a router counts: for its own status, and for Prometheus through Ray's exporter on each node."""

from __future__ import annotations

import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ray.util.metrics import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterator

    from realm_core.storage.snapshots import SnapshotManifest

LATENCY_BOUNDS_SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]
BATCH_BOUNDS_QUERIES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096]
NUM_RECENT = 4096
"""Searches that the latencies and the rate of `status` are taken from."""
RECENT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class RouterStatus:
    """What a router has done since its process started, and what it sees now."""

    generation: int | None
    num_searches: int
    num_failed_searches: int
    num_queries: int
    num_batches: int
    num_waiting_queries: int
    queries_per_second: float
    latency_p50_seconds: float
    latency_p99_seconds: float
    num_healthy_replicas: tuple[int, ...]
    """Of each index shard of the live snapshot."""


class RouterMetrics:
    """Counts since the process started; the recent searches for rates and quantiles."""

    def __init__(self) -> None:
        self._num_searches = self._num_failed = self._num_queries = self._num_batches = 0
        self._recent: deque[tuple[float, float, int]] = deque(maxlen=NUM_RECENT)
        prefix = "realm_retrieval"
        self._searches = Counter(f"{prefix}_searches", "Searches answered or failed", tag_keys=("outcome",))
        self._queries = Counter(f"{prefix}_queries", "Queries in searches that were answered")
        self._latency = Histogram(
            f"{prefix}_latency_seconds", "Seconds from a search's arrival to its answer", LATENCY_BOUNDS_SECONDS
        )
        self._batches = Histogram(f"{prefix}_batch_queries", "Queries in a batch", BATCH_BOUNDS_QUERIES)
        self._step = Gauge(f"{prefix}_live_encoder_step", "Training step of the live snapshot", tag_keys=("snapshot",))
        self._staleness = Gauge(
            f"{prefix}_staleness_seconds", "Seconds since the live snapshot's encoder left training"
        )
        self._manifest: SnapshotManifest | None = None

    @contextmanager
    def search(self, num_queries: int) -> Iterator[None]:
        """Counts one search, and whether it was answered."""
        started = time.monotonic()
        self._num_searches += 1
        outcome = "failed"
        try:
            yield
            outcome = "answered"
        finally:
            now = time.monotonic()
            self._searches.inc(1, {"outcome": outcome})
            if outcome == "failed":
                self._num_failed += 1
            else:
                self._num_queries += num_queries
                self._recent.append((now, now - started, num_queries))
                self._latency.observe(now - started)
                if num_queries:
                    self._queries.inc(num_queries)

    def batch(self, num_queries: int) -> None:
        """Counts one batch."""
        self._num_batches += 1
        self._batches.observe(num_queries)
        self._observe_staleness()

    def live(self, manifest: SnapshotManifest) -> None:
        """Notes which snapshot is live."""
        if self._manifest is not None:
            self._step.set(-1, {"snapshot": self._manifest.snapshot_id})  # a gauge's tag cannot be taken back
        self._manifest = manifest
        self._step.set(manifest.encoder_step, {"snapshot": manifest.snapshot_id})
        self._observe_staleness()

    def status(
        self, *, generation: int | None, num_waiting_queries: int, num_healthy_replicas: tuple[int, ...]
    ) -> RouterStatus:
        """All counts; rate and quantiles of the searches of the last minute, at most the last 4,096."""
        self._observe_staleness()
        now = time.monotonic()
        recent = [entry for entry in self._recent if entry[0] > now - RECENT_SECONDS]
        latencies = np.array([seconds for _, seconds, _ in recent] or [0.0])
        span = max(now - recent[0][0], 1e-3) if len(recent) > 1 else RECENT_SECONDS
        return RouterStatus(
            generation=generation,
            num_searches=self._num_searches,
            num_failed_searches=self._num_failed,
            num_queries=self._num_queries,
            num_batches=self._num_batches,
            num_waiting_queries=num_waiting_queries,
            queries_per_second=sum(num for _, _, num in recent) / span,
            latency_p50_seconds=float(np.quantile(latencies, 0.5)),
            latency_p99_seconds=float(np.quantile(latencies, 0.99)),
            num_healthy_replicas=num_healthy_replicas,
        )

    def _observe_staleness(self) -> None:
        if self._manifest is not None and self._manifest.encoder_saved_at_seconds:
            self._staleness.set(max(0.0, time.time() - self._manifest.encoder_saved_at_seconds))
