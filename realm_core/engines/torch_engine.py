"""Embeds token ids in bulk with PyTorch alone, on CPU or GPU.

Shapes: R rows of the call, T tokens of a pack, B rows of a pack, H hidden, D projection.
"""

# mypy: allow-untyped-calls
# torch leaves some methods unannotated.

from __future__ import annotations

import logging
from collections import deque

import numpy as np
import torch
from torch import Tensor

from realm_core.engines.engine import Progress, TokenIds, Work
from realm_core.engines.flops import embedder_flops
from realm_core.engines.packed_transformer import PackedTransformer, PackOnDevice, Projection
from realm_core.engines.packing import Pack, in_mixed_order, plan_packs
from realm_core.engines.peaks import measure_peak
from realm_core.engines.precision import TrainingPrecision
from realm_core.engines.row_attention import RowBounds
from realm_core.engines.token_rows import TokenRows, check_rows, packed_tokens, rows_of_blocks, rows_of_queries
from realm_core.errors import BlockError, UsageError
from realm_core.modeling.configuration import RealmConfig
from realm_core.modeling.embedder import RealmEmbedder

logger = logging.getLogger(__name__)

CPU_TOKENS_PER_PACK = 1152
"""Four blocks of the usual 288 tokens; 14 MB in BERT-base's widest layer. Larger packs compute no faster and end with
more dummies where blocks are few; 1,024 would hold three such blocks and a gap."""
GPU_TOKENS_PER_PACK = 32_768
"""0.2 GB in bf16 in BERT-base's widest layer."""
MIN_TOKENS_PER_PACK = 512
CPU_QUERY_TOKENS_PER_PACK = 128
"""Queries come few at a time and a pack is filled up with dummies, which cost time on a CPU."""
PACKS_AHEAD = 2
"""Packs that a GPU has been given and not finished: the next one is prepared while it works."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TorchEngine:
    """The embeddings of RealmEmbedder, faster: without padding, and only the [CLS] row of the last layer.

    A row's embedding depends on the row and on the engine's settings alone, to the bit: not on the other rows, their
    order or number, nor on the number of threads (with two attention heads or more, 16 wide or more). When a
    GPU ran out of memory, packs are smaller, and last bits may change.
    """

    def __init__(
        self,
        embedder: RealmEmbedder,
        *,
        device: str | torch.device = "cpu",
        tokens_per_pack: int | None = None,
        precision: TrainingPrecision = "fp32",
        cls_token_id: int = 101,
        sep_token_id: int = 102,
        measures_peak: bool = False,
        query_embedder: RealmEmbedder | None = None,
    ) -> None:
        """Copies the embedder to the device; later changes of the original do not reach the engine.

        Args:
            embedder: in any mode; the engine has no dropout.
            device: where to run.
            tokens_per_pack: size of a forward pass. Part of what fixes a row's bits. By default 1,152 on a CPU and
                32,768 on a GPU.
            precision: of the Transformer; pooler and projection and the embeddings are fp32 always.
            cls_token_id: of the embedder's tokenizer; the default is that of uncased BERT.
            sep_token_id: likewise.
            measures_peak: whether to find out `peak_flops_per_second`, which takes half a second.
            query_embedder: of queries, where they have one of their own.

        Raises:
            UsageError: packs that hold nothing, or a precision that there is not.
        """
        self.device = torch.device(device)
        self.dimension = embedder.config.retriever_proj_size
        self._config = embedder.config
        self._marker_ids = (cls_token_id, sep_token_id)
        _check_settings(tokens_per_pack, precision)
        self._block_tokens = tokens_per_pack or self._by_device(CPU_TOKENS_PER_PACK, GPU_TOKENS_PER_PACK)
        self._query_tokens = self._by_device(CPU_QUERY_TOKENS_PER_PACK, self._block_tokens)
        self._transformer = PackedTransformer(
            embedder.realm, device=self.device, dtype=_DTYPES[precision], num_tokens=self._block_tokens
        )
        self._project = Projection(embedder, self.device)
        self.peak_flops_per_second = measure_peak(self.device, _DTYPES[precision]) if measures_peak else 0.0
        self._query_engine = self
        if query_embedder is not None:
            self._query_engine = TorchEngine(
                query_embedder,
                device=device,
                tokens_per_pack=tokens_per_pack,
                precision=precision,
                cls_token_id=cls_token_id,
                sep_token_id=sep_token_id,
            )

    def encode(
        self, title_token_ids: TokenIds, body_token_ids: TokenIds, *, progress: Progress | None = None
    ) -> np.ndarray:
        """Embeddings [R, D], fp32, of blocks `[CLS] title [SEP] body [SEP]`; see `Engine.encode`."""
        rows = rows_of_blocks(title_token_ids, body_token_ids, *self._marker_ids)
        return self._run(rows, self._block_tokens, progress)

    def encode_queries(self, token_ids: TokenIds) -> np.ndarray:
        """Embeddings [R, D], fp32, of queries `[CLS] tokens [SEP]`, all of token type 0."""
        return self._query_engine._run(rows_of_queries(token_ids, *self._marker_ids), self._query_tokens, None)

    @torch.inference_mode()
    def _run(self, rows: TokenRows, tokens_per_pack: int, progress: Progress | None) -> np.ndarray:
        check_rows(rows, longest_tokens=self._config.max_position_embeddings, vocab_size=self._config.vocab_size)
        embeddings_RD = torch.empty(len(rows.lengths_R), self.dimension, device=self.device)
        todo = np.arange(len(rows.lengths_R))
        while len(todo):
            todo = self._embed(rows, todo, tokens_per_pack, embeddings_RD, progress)
            tokens_per_pack = max(MIN_TOKENS_PER_PACK, tokens_per_pack // 2)
        return embeddings_RD.cpu().numpy()

    def _embed(
        self, rows: TokenRows, todo: np.ndarray, tokens_per_pack: int, embeddings_RD: Tensor, progress: Progress | None
    ) -> np.ndarray:
        """Embeds the rows of `todo`; returns those that were left when memory ran out."""
        starts_R, pace = rows.starts_R, _Pace(self.device)
        is_left_R = np.zeros(len(rows.lengths_R), dtype=bool)
        is_left_R[todo] = True
        for planned in in_mixed_order(list(plan_packs(rows.lengths_R[todo], tokens_per_pack))):
            pack = Pack(rows=todo[planned.rows], num_tokens=planned.num_tokens, capacity_tokens=planned.capacity_tokens)
            try:
                self._embed_pack(rows, starts_R, pack, embeddings_RD)
                pace.wait()
            except torch.OutOfMemoryError as error:
                _require_smaller(tokens_per_pack, self.device, error)
                return np.flatnonzero(is_left_R)
            is_left_R[pack.rows] = False
            if progress is not None:
                progress(_work(self._config, rows, pack))
        return np.flatnonzero(is_left_R)

    def _embed_pack(self, rows: TokenRows, starts_R: np.ndarray, pack: Pack, embeddings_RD: Tensor) -> None:
        places_B = torch.from_numpy(pack.rows).to(self.device)
        try:
            embeddings_RD[places_B] = self._forward(rows, starts_R, pack)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise self._naming_the_rows(rows, starts_R, pack, error) from error

    def _forward(self, rows: TokenRows, starts_R: np.ndarray, pack: Pack) -> Tensor:
        """Embeddings [B, D]."""
        tokens = packed_tokens(rows, starts_R, pack)
        stops_B1 = np.concatenate([[0], np.cumsum(tokens.lengths_B)])
        on_device = PackOnDevice(
            ids_T=self._to_device(tokens.ids_T).to(torch.int32),
            positions_T=self._to_device(tokens.positions_T).to(torch.int32),
            types_T=self._to_device(tokens.types_T).to(torch.int32),
            bounds=RowBounds(tuple(tokens.lengths_B.tolist()), self._to_device(stops_B1.astype(np.int32))),
            cls_places_B=self._to_device(stops_B1[:-1]),
        )
        return self._project(self._transformer.cls_states(on_device))

    def _to_device(self, values: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(values)
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

    def _naming_the_rows(
        self, rows: TokenRows, starts_R: np.ndarray, pack: Pack, error: RuntimeError
    ) -> BlockError | RuntimeError:
        """Which rows of the pack fail alone as well; the error itself when none does."""
        failing = tuple(row for row in pack.rows.tolist() if not self._can_embed(rows, starts_R, row))
        if not failing:
            return error
        return BlockError(
            where=f"row {', '.join(map(str, failing))} of {len(rows.lengths_R)}",
            found=str(error).splitlines()[0],
            expected="an embedding",
            action="Look at these blocks; the others of their part can be embedded without them.",
            rows=failing,
        )

    def _can_embed(self, rows: TokenRows, starts_R: np.ndarray, row: int) -> bool:
        num_tokens = int(rows.lengths_R[row])
        pack = Pack(rows=np.array([row]), num_tokens=num_tokens, capacity_tokens=max(num_tokens, self._block_tokens))
        try:
            self._forward(rows, starts_R, pack).cpu()
        except RuntimeError:
            return False
        return True

    def _by_device(self, on_cpu: int, on_gpu: int) -> int:
        return on_cpu if self.device.type == "cpu" else on_gpu


def _check_settings(tokens_per_pack: int | None, precision: str) -> None:
    problems = [] if tokens_per_pack is None or tokens_per_pack >= 1 else [f"tokens_per_pack {tokens_per_pack}"]
    problems += [] if precision in _DTYPES else [f"precision {precision!r}"]
    if problems:
        raise UsageError(
            where="engine",
            found=", ".join(problems),
            expected=f"at least one token, and a precision of {', '.join(_DTYPES)}",
            action="Correct these arguments; without tokens_per_pack it suits the device.",
        )


class _Pace:
    """Keeps a GPU a few packs behind, so that memory stays bounded and progress is true; does nothing on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._is_gpu = device.type == "cuda"
        self._events: deque[torch.cuda.Event] = deque()

    def wait(self) -> None:
        """Until at most `PACKS_AHEAD` packs are unfinished."""
        if not self._is_gpu:
            return
        event = torch.cuda.Event()
        event.record()
        self._events.append(event)
        if len(self._events) > PACKS_AHEAD:
            self._events.popleft().synchronize()


def _work(config: RealmConfig, rows: TokenRows, pack: Pack) -> Work:
    return Work(len(pack.rows), pack.num_tokens, embedder_flops(config, rows.lengths_R[pack.rows]))


def _require_smaller(tokens_per_pack: int, device: torch.device, error: Exception) -> None:
    if tokens_per_pack <= MIN_TOKENS_PER_PACK:
        raise UsageError(
            where=f"engine on {device}",
            found=str(error).splitlines()[0],
            expected=f"memory for {tokens_per_pack} tokens at a time",
            action="Free the device's memory, or use one that has more.",
        ) from error
    logger.warning("The memory of %s is too small for %d tokens at a time; trying half of it.", device, tokens_per_pack)
