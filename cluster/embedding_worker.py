"""The embedding actor: `PartEmbedder` in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray

from realm_core.engines.part_embedder import PartEmbedder
from realm_core.engines.part_queue import PARTS_PER_WORKER
from realm_core.storage.files import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from realm_core.engines.engine import EngineLoader
    from realm_core.engines.part_embedder import EmbeddedPart, EmbedderProgress
    from realm_core.storage.block_store import PartEntry


class EmbeddingWorker:
    """Reads and writes parts while it encodes one; answers queries and the watch meanwhile."""

    def __init__(self, store_url: str, loader: EngineLoader, precision: str) -> None:
        self._embedder = PartEmbedder(Store(store_url), loader, precision)

    @ray.method(concurrency_group="embed")
    def start(self, encoder_digest: str | None) -> EmbedderProgress:
        """Answers when the process is there and has loaded the encoder's engine, if one is named."""
        if encoder_digest is not None:
            self._embedder.load(encoder_digest)
        return self._embedder.progress

    @ray.method(concurrency_group="embed")
    def embed(self, part: PartEntry, encoder_digest: str) -> EmbeddedPart:
        """See `PartEmbedder.embed`."""
        return self._embedder.embed(part, encoder_digest)

    @ray.method(concurrency_group="queries")
    def encode_queries(self, token_ids: Sequence[Sequence[int]], encoder_digest: str) -> np.ndarray:
        """See `PartEmbedder.encode_queries`."""
        return self._embedder.encode_queries(token_ids, encoder_digest)

    @ray.method(concurrency_group="watch")
    def progress(self) -> EmbedderProgress:
        """See `PartEmbedder.progress`."""
        return self._embedder.progress


EmbeddingActor: Any = ray.remote(concurrency_groups={"embed": PARTS_PER_WORKER, "queries": 1, "watch": 1})(
    EmbeddingWorker
)
