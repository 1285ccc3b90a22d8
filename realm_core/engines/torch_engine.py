"""Embeds token ids in bulk with plain PyTorch, on CPU or GPU.

Shapes: R rows of the call, B rows of a batch (dummies included), L tokens, D projection.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from realm_core.engines.packing import Batch, ShapeGrid, plan_batches
from realm_core.engines.precision import Precision
from realm_core.errors import UsageError
from realm_core.modeling.embedder import RealmEmbedder
from realm_core.modeling.encoder import RealmBertModel

TokenIds = Sequence[np.ndarray]
Progress = Callable[[int], None]

DEFAULT_TOKENS_PER_BATCH = 1152
"""4 rows of 288 tokens. On a CPU 2 to 16 rows run equally fast, 32 slower, and few rows need the fewest dummies; on a
GPU set tens of thousands."""
BUCKET_STEP_TOKENS = 16
"""Pads a row by 7.5 tokens on average."""
LAST_LAYER_ROWS = 16
"""Only [CLS] is needed of the last layer, but with one row per sequence attention splits the keys between threads and
small matrix products treat a batch's last rows differently: bits would depend on a row's place and on the threads."""
CPU_QUERY_TOKENS_PER_BATCH = 128
"""Queries come few at a time and every batch is filled with dummies, which cost time on a CPU (and none on a GPU)."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TorchEngine:
    """The embeddings of RealmEmbedder, faster.

    Rows are grouped by length, and only the [CLS] row of the last layer is computed. A row's embedding depends
    on the row and on the engine's settings alone, to the bit: not on the other rows, their order or their number.
    """

    def __init__(
        self,
        embedder: RealmEmbedder,
        *,
        device: str | torch.device = "cpu",
        max_tokens_per_batch: int = DEFAULT_TOKENS_PER_BATCH,
        precision: Precision = "fp32",
        cls_token_id: int = 101,
        sep_token_id: int = 102,
    ) -> None:
        """Copies the embedder to the device; later changes of the original do not reach the engine.

        Args:
            embedder: in any mode; the copy is in evaluation mode.
            device: where to run.
            max_tokens_per_batch: size of a forward pass in tokens, padding included. Part of what fixes a row's bits.
            precision: of the Transformer; the projection and the embeddings are fp32 always.
            cls_token_id: of the embedder's tokenizer; the default is that of uncased BERT.
            sep_token_id: likewise.
        """
        self.device = torch.device(device)
        self.dimension = embedder.config.retriever_proj_size
        self._cls_token_id, self._sep_token_id = cls_token_id, sep_token_id
        self._vocab_size = embedder.config.vocab_size
        encoder: nn.Module = copy.deepcopy(embedder.realm)
        self._realm = cast(RealmBertModel, encoder.to(self.device, _DTYPES[precision]).eval())
        self._project = (
            nn.Sequential(copy.deepcopy(embedder.cls.dense), copy.deepcopy(embedder.cls.LayerNorm))
            .to(self.device, torch.float32)
            .eval()
        )
        longest = embedder.config.max_position_embeddings
        self._blocks = _grid(max_tokens_per_batch, longest)
        query_tokens = CPU_QUERY_TOKENS_PER_BATCH if self.device.type == "cpu" else max_tokens_per_batch
        self._queries = _grid(query_tokens, longest)

    def encode(
        self, title_token_ids: TokenIds, body_token_ids: TokenIds, *, progress: Progress | None = None
    ) -> np.ndarray:
        """Embeddings [R, D], fp32, of blocks `[CLS] title [SEP] body [SEP]`, in the order of the input.

        The title with its marks has token type 0, the body 1 (as ORQA has it).

        Args:
            title_token_ids: R arrays of token ids.
            body_token_ids: R arrays of token ids.
            progress: called with the number of rows embedded since the last call.

        Raises:
            UsageError: a block is longer than the encoder's positions, or a token id is outside the vocabulary.
        """
        titles = [np.asarray(title) for title in title_token_ids]
        bodies = [np.asarray(body) for body in body_token_ids]
        lengths_R = np.array([len(t) + len(b) + 3 for t, b in zip(titles, bodies, strict=True)], dtype=np.int64)
        first_lengths_R = np.array([len(title) + 2 for title in titles], dtype=np.int64)
        return self._run(lengths_R, first_lengths_R, [titles, bodies], self._blocks, progress)

    def encode_queries(self, token_ids: TokenIds) -> np.ndarray:
        """Embeddings [R, D], fp32, of queries `[CLS] tokens [SEP]`, all of token type 0.

        Raises:
            UsageError: a query is longer than the encoder's positions, or a token id is outside the vocabulary.
        """
        queries = [np.asarray(tokens) for tokens in token_ids]
        lengths_R = np.array([len(query) + 2 for query in queries], dtype=np.int64)
        return self._run(lengths_R, lengths_R, [queries], self._queries, None)

    @torch.inference_mode()
    def _run(
        self,
        lengths_R: np.ndarray,
        first_lengths_R: np.ndarray,
        segments: list[list[np.ndarray]],
        grid: ShapeGrid,
        progress: Progress | None,
    ) -> np.ndarray:
        embeddings_RD = torch.empty(len(lengths_R), self.dimension, device=self.device)
        for batch in plan_batches(lengths_R, grid):
            ids_BL = self._token_ids(batch, segments)
            embeddings_BD = self._forward(ids_BL, _of_batch(lengths_R, batch), _of_batch(first_lengths_R, batch))
            rows = torch.from_numpy(batch.indices).to(self.device)
            embeddings_RD[rows] = embeddings_BD[: len(batch.indices)]
            if progress is not None:
                progress(len(batch.indices))
        return embeddings_RD.cpu().numpy()

    def _token_ids(self, batch: Batch, segments: list[list[np.ndarray]]) -> np.ndarray:
        """Token ids [B, L] as uint16: `[CLS]`, then each segment and `[SEP]`; dummy rows and padding are 0."""
        ids_BL = np.zeros((batch.num_rows, batch.length_tokens), dtype=np.uint16)
        ids_BL[:, 0] = self._cls_token_id
        for row, index in enumerate(batch.indices):
            start = 1
            for segment in segments:
                stop = start + len(segment[index])
                ids_BL[row, start:stop] = segment[index]
                ids_BL[row, stop] = self._sep_token_id
                start = stop + 1
        self._check_ids(ids_BL)
        return ids_BL

    def _check_ids(self, ids_BL: np.ndarray) -> None:
        if ids_BL.max() >= self._vocab_size:
            raise UsageError(
                where="token ids",
                found=f"id {ids_BL.max()}",
                expected=f"ids below {self._vocab_size}, the size of the encoder's vocabulary",
                action="Tokenize with the encoder's own tokenizer.",
            )

    def _forward(self, ids_BL: np.ndarray, lengths_B: np.ndarray, first_lengths_B: np.ndarray) -> Tensor:
        ids = torch.from_numpy(ids_BL).to(self.device).to(torch.int32)
        positions_L = torch.arange(ids.shape[1], device=self.device)
        lengths_B1 = torch.from_numpy(lengths_B).to(self.device).unsqueeze(1)
        first_B1 = torch.from_numpy(first_lengths_B).to(self.device).unsqueeze(1)
        few_BQ = positions_L[:LAST_LAYER_ROWS].expand(ids.shape[0], -1)
        states_BQH = self._realm.states_at(few_BQ, ids, positions_L < lengths_B1, (positions_L >= first_B1).int())
        return cast(Tensor, self._project(self._realm.pool(states_BQH).float())[:, 0])


def _of_batch(values_R: np.ndarray, batch: Batch) -> np.ndarray:
    """The values [B] of a batch's rows; 1 for dummies, which are one token long."""
    values_B = np.ones(batch.num_rows, dtype=np.int64)
    values_B[: len(batch.indices)] = values_R[batch.indices]
    return values_B


def _grid(max_tokens_per_batch: int, longest_tokens: int) -> ShapeGrid:
    return ShapeGrid(
        bucket_step_tokens=BUCKET_STEP_TOKENS,
        max_tokens_per_batch=max_tokens_per_batch,
        max_length_tokens=longest_tokens,
    )
