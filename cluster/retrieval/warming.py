"""Before a shard process takes searches: it answers some, and the answers are looked at."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np

from cluster.retrieval.wire import Address, connect, hits_of, receive_frame, search_request, send_frame

if TYPE_CHECKING:
    from realm_core.storage.snapshots import SnapshotManifest

NUM_WARM_QUERIES = 64
WARM_HITS = 10
WARM_TIMEOUT_SECONDS = 120.0


async def warm(address: Address, token: bytes, manifest: SnapshotManifest) -> None:
    """Sends the process queries of the snapshot's width, singly and in a batch. Raises what a search raises."""
    await asyncio.to_thread(_warm, address, token, manifest)


def _warm(address: Address, token: bytes, manifest: SnapshotManifest) -> None:
    queries_BD = np.random.default_rng(0).normal(size=(NUM_WARM_QUERIES, manifest.dimension)).astype(np.float32)
    with connect(address, token, WARM_TIMEOUT_SECONDS) as connection:
        for batch_BD in (queries_BD, queries_BD[:1]):
            send_frame(connection, search_request(np.ascontiguousarray(batch_BD), WARM_HITS, WARM_TIMEOUT_SECONDS))
            hits_of(receive_frame(connection))
