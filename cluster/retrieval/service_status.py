"""What a service is to be, what it is, and what a swap did: plain values for callers and the command line."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.retrieval.memory import SwapMemory, SwapMode
    from cluster.retrieval.metrics import RouterStatus
    from realm_core.storage.snapshots import SnapshotManifest


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceConfig:
    """How a store is served."""

    store_url: str
    token: bytes
    replicas: int = 1
    """Processes of each index shard, on different nodes where there are several."""
    routers: int = 1
    follow: bool = False
    """Whether a snapshot that is published goes live by itself."""
    swap: SwapMode = "blue-green"
    """Of the swaps that following makes."""


@dataclass(frozen=True, slots=True)
class SwapResult:
    """What a swap did; `seconds` from the call to the flip, `drain_seconds` from there to the old processes' end."""

    snapshot_id: str
    previous_snapshot_id: str | None
    was_live_already: bool
    seconds: float
    drain_seconds: float = 0.0
    memory: SwapMemory | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceStatus:
    """What the service has done since its routers started: `searches = answered + failed` once none is in flight."""

    snapshot: SnapshotManifest
    config: ServiceConfig
    routers: tuple[RouterStatus | None, ...]
    """None for a router that does not answer."""
    num_swaps: int
    last_failed_swap: str
    """Why the last swap that failed did so; empty if none did."""
    upcoming: str
    """Id of the snapshot that a swap is loading now; empty between swaps."""
    upcoming_memory: str
    """What that swap takes in memory."""

    @property
    def num_shards(self) -> int:
        """Index shards of the live snapshot."""
        return len(self.snapshot.shards)

    @property
    def num_searches(self) -> int:
        """Searches that came, over all routers."""
        return sum(router.num_searches for router in self.routers if router)

    @property
    def num_failed_searches(self) -> int:
        """Searches that were refused or failed."""
        return sum(router.num_failed_searches for router in self.routers if router)

    @property
    def is_ready(self) -> bool:
        """True when every router answers and sees a process of every index shard."""
        return not self.what_is_down()

    def what_is_down(self) -> list[str]:
        """What keeps the service from being ready, in words."""
        down = []
        for number, router in enumerate(self.routers):
            if router is None:
                down.append(f"router {number} does not answer")
            elif not router.num_healthy_replicas:
                down.append(f"router {number} has not connected to the index shards yet")
            else:
                shards = [i for i, num_healthy in enumerate(router.num_healthy_replicas) if not num_healthy]
                down += [f"index shard {i} has no healthy replica, as router {number} sees it" for i in shards]
        return down

    @property
    def staleness_seconds(self) -> float:
        """Since the live snapshot's encoder left training."""
        return max(0.0, time.time() - self.snapshot.encoder_saved_at_seconds)
