"""What every engine does, whatever runs underneath: token ids of many blocks in, their embeddings out.

Shapes: R rows of the call, D projection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

    from realm_core.storage.files import Store

TokenIds = Sequence["np.ndarray"]
"""One array of token ids per row, without markers."""


@dataclass(frozen=True, slots=True)
class Work:
    """An amount of embedding; amounts add up."""

    num_rows: int = 0
    num_tokens: int = 0
    """Word pieces and markers; padding is no work."""
    num_flops: float = 0.0
    """Floating-point operations of the matrix products that these rows need, see `realm_core.engines.flops`."""

    def __add__(self, other: Work) -> Work:
        return Work(
            self.num_rows + other.num_rows, self.num_tokens + other.num_tokens, self.num_flops + other.num_flops
        )

    def __sub__(self, other: Work) -> Work:
        return Work(
            self.num_rows - other.num_rows, self.num_tokens - other.num_tokens, self.num_flops - other.num_flops
        )


Progress = Callable[[Work], None]


class Engine(Protocol):
    """The embeddings of RealmEmbedder in bulk.

    A row's embedding depends on the row and the engine's settings alone, to the bit, unless the class says otherwise.
    """

    dimension: int
    """D."""
    peak_flops_per_second: float
    """What the device's matrix products reach in this arithmetic, measured when the engine was loaded; 0 if unknown."""

    def encode(
        self, title_token_ids: TokenIds, body_token_ids: TokenIds, *, progress: Progress | None = None
    ) -> np.ndarray:
        """Embeddings [R, D], fp32, of blocks `[CLS] title [SEP] body [SEP]`, in the order of the input.

        Args:
            title_token_ids: R arrays.
            body_token_ids: R arrays.
            progress: called with what was done since the last call.

        Raises:
            BlockError: rows longer than the encoder's positions, with ids outside its vocabulary, or whose forward pass
                fails; its `rows` are their numbers in the input.
        """

    def encode_queries(self, token_ids: TokenIds) -> np.ndarray:
        """Embeddings [R, D], fp32, of queries `[CLS] tokens [SEP]`."""


class EngineLoader(Protocol):
    """Loads engines in the process that will run them; goes to actors by pickle."""

    def load(self, store: Store, encoder_digest: str, precision: str) -> Engine:
        """The engine of an encoder of the store.

        Args:
            store: where the encoder is.
            encoder_digest: of the encoder.
            precision: the name of the arithmetic as it stands in embeddings' names, see `precision.py`.
        """
