"""Embeds token ids in int8 with OpenVINO, on a CPU: an optional extra, `pip install realm-at-scale[int8]`.

Shapes: R rows of the call, B rows of a batch (dummies included), L tokens, D projection.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from realm_core.engines.buckets import Batch, ShapeGrid, plan_batches
from realm_core.engines.engine import Work
from realm_core.engines.flops import embedder_flops
from realm_core.engines.packing import in_mixed_order
from realm_core.engines.peaks import measure_int8_peak
from realm_core.engines.token_rows import check_rows, padded_tokens, rows_of_blocks, rows_of_queries
from realm_core.errors import BlockError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from realm_core.engines.engine import Engine, Progress, TokenIds
    from realm_core.engines.token_rows import TokenRows
    from realm_core.modeling.configuration import RealmConfig

TOKENS_PER_BATCH = 512
"""A few rows, whose activations a core's own cache holds; 1,152 are a fifth slower with BERT-base."""
BATCHES_PER_STREAM = 2
"""One that runs, and the next, so that no thread waits for Python."""
BUCKET_STEP_TOKENS = 16
"""Pads a row by 7.5 tokens on average."""


def require_package(name: str) -> Any:  # noqa: ANN401 - an optional module
    """A package of the extra `int8`, or a `UsageError` that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            where="--precision int8",
            found=f"no package {name} ({error})",
            expected="the packages of the extra `int8`",
            action="Run `pip install 'realm-at-scale[int8]'`, or take another precision.",
        ) from error


class OpenVinoEngine:
    """The embeddings of a quantized RealmEmbedder; an `Engine`.

    A row's embedding depends on the row and the model alone, to the bit: rows are padded to a length that follows from
    their own, and all batches of a length have one shape.
    """

    def __init__(
        self,
        model: Path,
        config: RealmConfig,
        *,
        threads: int | None = None,
        cls_token_id: int = 101,
        sep_token_id: int = 102,
        measures_peak: bool = False,
        query_engine: Engine | None = None,
    ) -> None:
        """Compiles a model file for this machine, in a second or two.

        Args:
            model: the `.xml` beside its `.bin`.
            config: of the embedder that was quantized.
            threads: by default one per core.
            cls_token_id: of the embedder's tokenizer.
            sep_token_id: likewise.
            measures_peak: whether to find out `peak_flops_per_second`, which takes half a second.
            query_engine: what embeds queries, where they have an embedder of their own.

        Raises:
            UsageError: OpenVINO is not installed.
        """
        openvino = require_package("openvino")
        threads = threads or os.cpu_count() or 1
        options = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": threads, "INFERENCE_NUM_THREADS": threads}
        compiled = openvino.Core().compile_model(str(model), "CPU", options)
        self._requests = [compiled.create_infer_request() for _ in range(threads * BATCHES_PER_STREAM)]
        self.dimension = config.retriever_proj_size
        self.peak_flops_per_second = measure_int8_peak() if measures_peak else 0.0
        self._config = config
        self._marker_ids = (cls_token_id, sep_token_id)
        self._query_engine = query_engine
        self._grid = ShapeGrid(
            bucket_step_tokens=BUCKET_STEP_TOKENS,
            max_tokens_per_batch=TOKENS_PER_BATCH,
            max_length_tokens=config.max_position_embeddings,
        )

    def encode(
        self, title_token_ids: TokenIds, body_token_ids: TokenIds, *, progress: Progress | None = None
    ) -> np.ndarray:
        """Embeddings [R, D], fp32, of blocks `[CLS] title [SEP] body [SEP]`; see `Engine.encode`."""
        return self._run(rows_of_blocks(title_token_ids, body_token_ids, *self._marker_ids), progress)

    def encode_queries(self, token_ids: TokenIds) -> np.ndarray:
        """Embeddings [R, D], fp32, of queries `[CLS] tokens [SEP]`, all of token type 0."""
        if self._query_engine is not None:
            return self._query_engine.encode_queries(token_ids)
        return self._run(rows_of_queries(token_ids, *self._marker_ids), None)

    def _run(self, rows: TokenRows, progress: Progress | None) -> np.ndarray:
        check_rows(rows, longest_tokens=self._config.max_position_embeddings, vocab_size=self._config.vocab_size)
        embeddings_RD = np.empty((len(rows.lengths_R), self.dimension), dtype=np.float32)
        for batch, embeddings_BD in self._infer(rows, in_mixed_order(list(plan_batches(rows.lengths_R, self._grid)))):
            embeddings_RD[batch.indices] = embeddings_BD[: len(batch.indices)]
            if progress is not None:
                lengths_B = rows.lengths_R[batch.indices]
                progress(Work(len(lengths_B), int(lengths_B.sum()), embedder_flops(self._config, lengths_B)))
        return embeddings_RD

    def _infer(self, rows: TokenRows, batches: list[Batch]) -> Iterator[tuple[Batch, np.ndarray]]:
        """Each batch with its embeddings: every thread computes a batch of its own."""
        starts_R, free, running = rows.starts_R, list(self._requests), deque[tuple[Any, Batch]]()
        try:
            for batch in batches:
                if not free:
                    request, done = running.popleft()
                    yield done, _finished(request, done, rows)
                    free.append(request)
                request = free.pop()
                with _naming_the_rows(batch, rows):
                    request.start_async(list(padded_tokens(rows, starts_R, batch)))
                running.append((request, batch))
            while running:
                request, done = running.popleft()
                yield done, _finished(request, done, rows)
        finally:
            for request in self._requests:  # after a failure: nothing of this call may still run in the next
                with contextlib.suppress(RuntimeError):
                    request.wait()


def _finished(request: Any, batch: Batch, rows: TokenRows) -> np.ndarray:  # noqa: ANN401 - of an optional package
    """Embeddings [B, D] of a batch that was started."""
    with _naming_the_rows(batch, rows):
        request.wait()
    embeddings_BD: np.ndarray = request.get_output_tensor(0).data
    return embeddings_BD


@contextlib.contextmanager
def _naming_the_rows(batch: Batch, rows: TokenRows) -> Iterator[None]:
    """Raises `BlockError` with the batch's rows in place of what OpenVINO raises."""
    try:
        yield
    except RuntimeError as error:
        raise BlockError(
            where=f"rows {', '.join(map(str, batch.indices.tolist()))} of {len(rows.lengths_R)}",
            found=str(error).splitlines()[0],
            expected="embeddings",
            action="Look at these blocks, or take another precision.",
            rows=tuple(batch.indices.tolist()),
        ) from error
