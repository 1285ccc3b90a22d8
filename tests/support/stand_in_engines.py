"""Engines for tests of the embedding job: without PyTorch, so that actors start in a second, and with faults.

Actors do not find the folder of the tests, so the loader travels with its code.
"""

from __future__ import annotations

import os
import sys
import time
import zlib
from dataclasses import dataclass, field

import numpy as np
from ray import cloudpickle

from realm_core.engines.engine import Work
from realm_core.errors import BlockError, EncoderError

cloudpickle.register_pickle_by_value(sys.modules[__name__])

DIMENSION = 16
ROWS_PER_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class StandInLoader:
    """Embeddings that depend on the tokens alone; the fields are what may go wrong. Blocks are known by a token."""

    seconds_per_row: float = 0.0
    """Of blocks; queries take none."""
    waits_while: str = ""
    """Blocks are not done while there is a file of this name."""
    seconds_to_load: float = 0.0
    fails_at: int | None = None
    """The engine raises at blocks with this token."""
    makes_nan_of: int | None = None
    dies_at: int | None = None
    is_random: bool = False
    """Dropout left on."""
    cannot_load: bool = False
    breaks: bool = False
    """An error that is not ours, at every part."""
    dimension: int = DIMENSION
    of_encoders: dict = field(default_factory=dict)
    """Other loaders for some encoders, by digest."""

    def load(self, store, encoder_digest, precision):
        if encoder_digest in self.of_encoders:
            return self.of_encoders[encoder_digest].load(store, encoder_digest, precision)
        time.sleep(self.seconds_to_load)
        if self.cannot_load:
            raise EncoderError(where="stand-in", found="no weights", expected="some", action="Find them.")
        return StandInEngine(self, seed=zlib.crc32(encoder_digest.encode()))


class StandInEngine:
    peak_flops_per_second = 1e9

    def __init__(self, faults, seed):
        self._faults = faults
        self.dimension = faults.dimension
        self._seed = seed

    def encode(self, title_token_ids, body_token_ids, *, progress=None):
        embeddings = np.empty((len(body_token_ids), self.dimension), np.float32)
        for start in range(0, len(body_token_ids), ROWS_PER_BATCH):
            stop = min(start + ROWS_PER_BATCH, len(body_token_ids))
            time.sleep(self._faults.seconds_per_row * (stop - start))
            while self._faults.waits_while and os.path.exists(self._faults.waits_while):  # noqa: PTH110 - travels alone
                time.sleep(0.05)
            for row in range(start, stop):
                embeddings[row] = self._embed(row, title_token_ids[row], body_token_ids[row])
            if progress is not None:
                num_tokens = sum(len(body) + 3 for body in body_token_ids[start:stop])
                progress(Work(stop - start, num_tokens, 1e6 * (stop - start)))
        return embeddings

    def encode_queries(self, token_ids):
        return np.stack([self._embed(row, [], body) for row, body in enumerate(token_ids)]).astype(np.float32)

    def _embed(self, row, title, body):
        faults, tokens = self._faults, [*map(int, title), *map(int, body)]
        if faults.breaks:
            raise RuntimeError("the device\nis gone")
        if faults.dies_at in tokens:
            os.kill(os.getpid(), 9)
        if faults.fails_at in tokens:
            raise BlockError(where="batch", found="no way through", expected="one", action="None.", rows=(row,))
        if faults.makes_nan_of in tokens:
            return np.full(self.dimension, np.nan)
        seed = None if faults.is_random else [self._seed, *tokens]
        return np.random.default_rng(seed).normal(size=self.dimension)
