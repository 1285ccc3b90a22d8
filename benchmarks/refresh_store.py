"""A corpus of blocks that are only numbers, and an engine that gives them clustered vectors at the pace of a GPU.

A block's tokens are the digits of its block id, so that the engine knows from the tokens alone which row it embeds.
Parts are real: Parquet and Arrow files with the columns of block records.

Shape letters: `B` queries, `D` projection, `R` rows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from benchmarks.clustered import ClusteredEmbeddings
from benchmarks.synthetic_store import uids
from realm_core.engines.engine import Work
from realm_core.records import BLOCK_SCHEMA
from realm_core.storage.block_store import CorpusManifest, PartEntry, save_corpus, write_part
from realm_core.storage.digests import digest_of_uids

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from realm_core.engines.engine import Engine, Progress, TokenIds
    from realm_core.storage.files import Store

DIGIT_BASE = 1 << 15
NUM_DIGITS = 2
STEPS_PER_CALL = 8
"""As often is progress reported; an engine does it after each batch."""
DRIFT = 0.05
"""What a vector moves from one encoder to the next, beside the noise of its cluster."""


def write_corpus(
    store: Store, num_rows: int, *, rows_per_part: int, progress: Callable[[int], None] = lambda _: None
) -> CorpusManifest:
    """Writes the parts and makes the corpus current."""
    parts = []
    for start in range(0, num_rows, rows_per_part):
        stop = min(start + rows_per_part, num_rows)
        digest, _ = write_part(store, _table(start, stop))
        parts.append(
            PartEntry(
                digest=digest, num_rows=stop - start, num_tokens=NUM_DIGITS * (stop - start), first_block_id=start
            )
        )
        progress(stop)
    corpus = CorpusManifest(
        parts=tuple(parts),
        tokenizer_digest="synthetic",
        max_block_tokens=288,
        uid_digest=digest_of_uids(uids(0, num_rows)),
        source="synthetic",
        counts={},
    )
    save_corpus(store, corpus)
    return corpus


def _table(start: int, stop: int) -> pa.Table:
    num_rows = stop - start
    rows = np.arange(start, stop)
    digits = np.stack([rows // DIGIT_BASE, rows % DIGIT_BASE], axis=1).astype(np.uint16)
    texts = pa.array([""] * num_rows)
    columns = {
        "uid": pa.FixedSizeBinaryArray.from_buffers(pa.binary(20), num_rows, [None, pa.py_buffer(uids(start, stop))]),
        "document_id": texts,
        "title": texts,
        "body": texts,
        "title_token_ids": _lists(np.empty((num_rows, 0), np.uint16)),
        "body_token_ids": _lists(digits),
        "sentence_starts": _lists(np.zeros((num_rows, 1), np.uint16)),
        "salient_span_starts": _lists(np.empty((num_rows, 0), np.uint16)),
        "salient_span_stops": _lists(np.empty((num_rows, 0), np.uint16)),
    }
    return pa.table([columns[field.name] for field in BLOCK_SCHEMA], schema=BLOCK_SCHEMA)


def _lists(values_RN: np.ndarray) -> pa.Array:
    offsets = np.arange(len(values_RN) + 1, dtype=np.int32) * values_RN.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values_RN.reshape(-1)))


class ClusteredEngine:
    """Sleeps as long as a GPU would compute; an `Engine`."""

    peak_flops_per_second = 0.0

    def __init__(self, embeddings: ClusteredEmbeddings, step: int, seconds_per_row: float) -> None:
        self._embeddings = embeddings
        self._drifted = replace(embeddings, seed=embeddings.seed + 1 + step)
        self._seconds_per_row = seconds_per_row
        self.dimension = embeddings.dimension

    def encode(
        self,
        title_token_ids: TokenIds,  # noqa: ARG002 - the protocol
        body_token_ids: TokenIds,
        *,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Rows of a part; the time that computing them takes here is part of the time that a GPU would take."""
        ends_at = time.monotonic()
        rows_R = _rows_of(body_token_ids)
        found_RD = self._take(rows_R)
        for steps in np.array_split(np.arange(len(rows_R)), STEPS_PER_CALL):
            ends_at += len(steps) * self._seconds_per_row
            time.sleep(max(0.0, ends_at - time.monotonic()))
            if progress is not None:
                progress(Work(num_rows=len(steps)))
        return found_RD

    def encode_queries(self, token_ids: TokenIds) -> np.ndarray:
        """A query is near its block's cluster, with noise of its own."""
        rows_B = _rows_of(token_ids)
        generators = [np.random.default_rng(row) for row in rows_B.tolist()]
        noise_BD = np.stack([g.standard_normal(self.dimension, dtype=np.float32) for g in generators])
        return self._embeddings.near(rows_B, noise_BD)

    def _take(self, rows_R: np.ndarray) -> np.ndarray:
        """Rows of the clusters, each moved a little in a direction of its own."""
        found_RD = np.empty((len(rows_R), self.dimension), dtype=np.float32)
        for start, stop in _ranges(rows_R):
            first, last = int(rows_R[start]), int(rows_R[stop - 1]) + 1
            found_RD[start:stop] = self._embeddings.rows(first, last)
            found_RD[start:stop] += np.float32(DRIFT) * self._drifted.rows(first, last)
        return found_RD


@dataclass(frozen=True, kw_only=True)
class ClusteredLoader:
    """Makes stand-ins for encoders named `step-<number>`; an `EngineLoader`."""

    embeddings: ClusteredEmbeddings
    seconds_per_row: float

    def load(self, store: Store, encoder_digest: str, precision: str) -> Engine:  # noqa: ARG002 - the protocol
        """See `EngineLoader.load`."""
        return ClusteredEngine(self.embeddings, int(encoder_digest.removeprefix("step-")), self.seconds_per_row)


def _rows_of(token_ids: Sequence[np.ndarray]) -> np.ndarray:
    digits_RN = np.stack([np.asarray(digits, dtype=np.int64) for digits in token_ids])
    rows_R: np.ndarray = digits_RN[:, 0] * DIGIT_BASE + digits_RN[:, 1]
    return rows_R


def _ranges(rows_R: np.ndarray) -> list[tuple[int, int]]:
    """Half-open ranges of consecutive rows."""
    ends = np.flatnonzero(np.diff(rows_R) != 1) + 1
    edges = [0, *ends.tolist(), len(rows_R)]
    return list(pairwise(edges))
