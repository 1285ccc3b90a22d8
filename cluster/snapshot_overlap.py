"""How far a refresh moves retrieval: what the snapshot before and after it answer to the gate's queries."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from realm_core.evaluation.metrics import overlap_at_k

if TYPE_CHECKING:
    import numpy as np

    from cluster.embedding import EmbeddingPool
    from cluster.retrieval_service import RetrievalClient
    from realm_core.retrieval.snapshot_search import SearchResult

logger = logging.getLogger(__name__)

NUM_HITS = 10


class SnapshotOverlap:
    """Remembers the live snapshot's answers. Each snapshot is asked with its own encoder's query embeddings."""

    def __init__(self, gate_queries: list[list[int]]) -> None:
        self._gate_queries = gate_queries
        self._last: SearchResult | None = None

    def look(self, service: RetrievalClient, pool: EmbeddingPool) -> None:
        """Before a refresh: asks the live snapshot, unless it was asked when it went live.

        That costs its encoder's engine once, in a process that has begun; a failure costs one overlap and is logged.
        """
        try:
            live = service.live_snapshot()
            if self._last is None or self._last.snapshot_id != live.snapshot_id:
                self._last = None
                queries_BD = pool.encode_queries(self._gate_queries, live.encoder_digest)
                self._last = service.search(queries_BD, NUM_HITS)
        except Exception as error:  # noqa: BLE001 - one figure less; the refresh goes on
            logger.warning("No overlap with the snapshot before will be measured: %s", error)

    def measure(self, service: RetrievalClient, queries_BD: np.ndarray) -> float | None:
        """After a swap: overlap@10 of the live snapshot with the one before; None where either could not be asked, or
        they are one."""
        before, self._last = self._last, None
        try:
            self._last = service.search(queries_BD, NUM_HITS)
        except Exception as error:  # noqa: BLE001 - as above: the snapshot is live
            logger.warning("The overlap with the snapshot before was not measured: %s", error)
            return None
        if before is None or before.snapshot_id == self._last.snapshot_id:
            return None
        return overlap_at_k(before.block_ids_BK, self._last.block_ids_BK)
