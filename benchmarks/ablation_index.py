"""A snapshot in memory: block embeddings, exact search, and the embedder that made them.

Shapes: B queries, K hits, D projection, R blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.ablation_corpus import RECALL_AT, recall_at_5
from realm_core.engines.torch_engine import TorchEngine
from realm_core.retrieval.snapshot_search import SearchResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.ablation_corpus import AskedQuestion, BlocksInMemory
    from realm_core.modeling.embedder import RealmEmbedder
    from realm_core.training.featurization import SpecialTokens

QUERIES_AT_A_TIME = 512


class MemorySnapshot:
    """The whole corpus embedded with a copy of the embedder as it is now; later training does not change it."""

    def __init__(
        self, blocks: BlocksInMemory, embedder: RealmEmbedder, special: SpecialTokens, *, step: int, device: str
    ) -> None:
        self._engine = TorchEngine(
            embedder,
            device=device,
            precision="bf16" if device == "cuda" else "fp32",
            cls_token_id=special.cls_id,
            sep_token_id=special.sep_id,
        )
        self._step = step
        embeddings_RD = self._engine.encode(blocks.title_ids, blocks.body_ids)
        self._embeddings_RD = torch.from_numpy(embeddings_RD).to(device)

    def search_token_ids(
        self,
        token_ids: Sequence[Sequence[int]],
        num_hits: int,
        *,
        deadline_seconds: float = 0.0,  # noqa: ARG002 - nothing to wait for in process
    ) -> SearchResult:
        """Exact top hits of tokenized queries [B, K]; a `realm_core.training.example_generator.TokenSearcher`."""
        arrays = [np.asarray(ids, dtype=np.uint16) for ids in token_ids]
        queries_BD = torch.from_numpy(self._engine.encode_queries(arrays)).to(self._embeddings_RD.device)
        best = [
            (some_BD @ self._embeddings_RD.T).topk(num_hits, dim=1) for some_BD in queries_BD.split(QUERIES_AT_A_TIME)
        ]
        return SearchResult(
            relevances_BK=torch.cat([found.values for found in best]).cpu().numpy(),
            block_ids_BK=torch.cat([found.indices for found in best]).cpu().numpy(),
            snapshot_id=f"step-{self._step:06d}",
            encoder_step=self._step,
        )

    def recall_at_5(self, blocks: BlocksInMemory, questions: Sequence[AskedQuestion]) -> float:
        """See `benchmarks.ablation_corpus.recall_at_5`."""
        hits_BK = self.search_token_ids([question.token_ids for question in questions], RECALL_AT).block_ids_BK
        return recall_at_5(blocks, questions, hits_BK)
