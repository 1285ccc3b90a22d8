"""Embedding one part: read, encode, write; what an embedding actor wraps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from realm_core.engines.loading import engine_of
from realm_core.index.gate import check_embeddings
from realm_core.storage.block_store import read_part
from realm_core.storage.digests import fixed_binary_to_numpy
from realm_core.storage.embedding_store import embedding_digest, embeddings_are_whole, write_embeddings
from realm_core.storage.encoder_store import get_encoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from realm_core.engines.precision import Precision
    from realm_core.engines.torch_engine import TorchEngine
    from realm_core.storage.block_store import PartEntry
    from realm_core.storage.files import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedPart:
    """What became of a part."""

    part: PartEntry
    embedding_digest: str
    was_reused: bool


class PartEmbedder:
    """Holds one encoder at a time and embeds parts with it."""

    def __init__(self, store: Store, *, device: str, precision: Precision) -> None:
        self._store = store
        self._device = device
        self._precision = precision
        self._encoder_digest = ""
        self._engine: TorchEngine | None = None
        self.rows_done = 0
        """Rows encoded since the start, for the progress display."""

    def embed(self, part: PartEntry, encoder_digest: str) -> EmbeddedPart:
        """Makes the part's embeddings unless they are there and whole.

        Raises:
            StoreError: the part or the encoder cannot be read.
            GateError: the encoder produced NaN or zero rows.
        """
        digest = embedding_digest(part.digest, encoder_digest, self._precision)
        was_reused = embeddings_are_whole(self._store, digest, part)
        if was_reused:
            self.rows_done += part.num_rows
        else:
            table = read_part(self._store, part, ["uid", "title_token_ids", "body_token_ids"])
            embeddings_RD = self._encode(table, encoder_digest)
            check_embeddings(embeddings_RD, where=f"embeddings of part {part.digest[:12]}")
            write_embeddings(self._store, digest, fixed_binary_to_numpy(table["uid"]), embeddings_RD)
        return EmbeddedPart(part=part, embedding_digest=digest, was_reused=was_reused)

    def encode_queries(self, token_ids: Sequence[Sequence[int]], encoder_digest: str) -> np.ndarray:
        """Query embeddings [B, D]."""
        return self._load(encoder_digest).encode_queries([np.asarray(t, dtype=np.uint16) for t in token_ids])

    def _encode(self, table: pa.Table, encoder_digest: str) -> np.ndarray:
        engine = self._load(encoder_digest)

        def count(rows: int) -> None:
            self.rows_done += rows

        return engine.encode(
            _token_lists(table, "title_token_ids"), _token_lists(table, "body_token_ids"), progress=count
        )

    def _load(self, encoder_digest: str) -> TorchEngine:
        if self._engine is None or encoder_digest != self._encoder_digest:
            self._engine = engine_of(
                get_encoder(self._store, encoder_digest), device=self._device, precision=self._precision
            )
            self._encoder_digest = encoder_digest
        return self._engine


def _token_lists(table: pa.Table, name: str) -> list[np.ndarray]:
    column = table[name].combine_chunks()
    values = column.flatten().to_numpy()
    return np.split(values, np.cumsum(column.value_lengths().to_numpy())[:-1])
