"""An engine that sleeps as long as a fast GPU would compute: what the job does around it is real."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from realm_core.engines.engine import Work

if TYPE_CHECKING:
    from realm_core.engines.engine import Engine, Progress, TokenIds
    from realm_core.storage.files import Store

DIMENSION = 128
NUM_VECTORS = 997
STEPS_PER_CALL = 8
"""As often is progress reported; an engine does it after each batch."""


class StandInEngine:
    """Sleeps, then gives each row a vector that follows from its tokens; an `Engine`."""

    dimension = DIMENSION
    peak_flops_per_second = 0.0

    def __init__(self, seconds_per_row: float) -> None:
        self._seconds_per_row = seconds_per_row
        vectors = np.random.default_rng(0).standard_normal((NUM_VECTORS, DIMENSION), dtype=np.float32)
        self._vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode(
        self,
        title_token_ids: TokenIds,  # noqa: ARG002 - the protocol
        body_token_ids: TokenIds,
        *,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """See `Engine.encode`."""
        num_rows = len(body_token_ids)
        for steps in np.array_split(np.arange(num_rows), STEPS_PER_CALL):
            time.sleep(len(steps) * self._seconds_per_row)
            if progress is not None:
                progress(Work(num_rows=len(steps)))
        lengths_R = [len(ids) for ids in body_token_ids]
        starts_R = np.cumsum([0, *lengths_R[:-1]])
        sums_R = np.add.reduceat(np.concatenate(body_token_ids).astype(np.int64), starts_R)
        found: np.ndarray = self._vectors[sums_R % NUM_VECTORS]
        return found

    def encode_queries(self, token_ids: TokenIds) -> np.ndarray:
        """See `Engine.encode_queries`."""
        return self.encode(token_ids, token_ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class StandInLoader:
    """Makes stand-ins, whatever the encoder; an `EngineLoader`."""

    seconds_per_row: float

    def load(self, store: Store, encoder_digest: str, precision: str) -> Engine:  # noqa: ARG002 - the protocol
        """See `EngineLoader.load`."""
        return StandInEngine(self.seconds_per_row)
