"""Embedding parts: read, encode, check, write; what an embedding actor wraps.

Shapes: R rows of a part, D projection.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from realm_core.engines.block_failures import BlocksOfPart, is_usable, require_usable
from realm_core.engines.engine import Work
from realm_core.engines.precision import stored_as
from realm_core.errors import ArtifactCorruptError, ArtifactMissingError, BlockError, EncoderError
from realm_core.storage.block_store import read_part
from realm_core.storage.digests import fixed_binary_to_numpy
from realm_core.storage.embedding_store import EmbeddingSpec, embedding_path, read_embeddings, write_embeddings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from realm_core.engines.engine import Engine, EngineLoader
    from realm_core.storage.block_store import PartEntry
    from realm_core.storage.files import Store

NUM_REPEATED_ROWS = 8
"""Rows of an engine's first part that are embedded twice: dropout left on, or a row that depends on its neighbours,
would show."""

Value = TypeVar("Value")
Outcome = Literal["made", "mended", "reused"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedPart:
    """What became of a part."""

    part: PartEntry
    embedding_digest: str
    outcome: Outcome
    """made; mended: made because the file that was there was damaged; reused: it was there, whole and usable."""
    dimension: int
    work: Work
    """What was embedded; nothing where the part was reused."""
    num_usable_rows: int
    """Rows that were looked at and are finite and not zero: all of them, or there would be an error."""
    num_repeated_rows: int
    """Rows that its engine embedded twice, to the same bits, before it delivered anything; 0 where reused."""
    uids: np.ndarray = field(repr=False, compare=False)
    """[R] (V20), as they stand in the file."""

    @property
    def was_reused(self) -> bool:
        """True when nothing had to be made."""
        return self.outcome == "reused"


@dataclass(frozen=True, slots=True)
class EmbedderProgress:
    """Where a `PartEmbedder` is."""

    work: Work = field(default_factory=Work)
    """All that it has embedded."""
    peak_flops_per_second: float = 0.0
    """Of its engine; 0 before one is loaded, or when unknown."""


class PartEmbedder:
    """Holds one engine at a time and embeds parts with it; may be called from several threads.

    One thread owns the engine, and the others read and write meanwhile: with two calls at a time, the next part is read
    and the one before is written while one is encoded. Engines need not be safe for threads.
    """

    def __init__(self, store: Store, loader: EngineLoader, precision: str) -> None:
        """Loads nothing yet.

        Args:
            store: holds parts and encoders, takes the embeddings.
            loader: of the engine.
            precision: name of the arithmetic and the stored type, see `realm_core.engines.precision`.
        """
        self._store = store
        self._loader = loader
        self._precision = precision
        self._engine: Engine | None = None
        self._engine_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._encoder_digest = ""
        self._num_repeated_rows = 0
        self._lock = threading.Lock()
        self._progress = EmbedderProgress()

    @property
    def progress(self) -> EmbedderProgress:
        """What was done since the start."""
        with self._lock:
            return self._progress

    def load(self, encoder_digest: str) -> None:
        """Loads the encoder's engine, unless it is the one that is there.

        Raises:
            RealmError: it cannot be loaded.
        """
        self._in_engine_thread(lambda: self._engine_of(encoder_digest))

    def embed(self, part: PartEntry, encoder_digest: str) -> EmbeddedPart:
        """Makes the part's embeddings unless they are there, whole and usable.

        Raises:
            BlockError: blocks that cannot be embedded, or whose embeddings came out as NaN or zero; names them.
            ArtifactMissingError, ArtifactCorruptError: the part cannot be read.
            RealmError: the engine cannot be loaded, or the embeddings cannot be written.
        """
        spec = EmbeddingSpec(encoder_digest=encoder_digest, precision=self._precision)
        digest = spec.digest(part.digest)
        there = self._usable_embeddings(digest, part)
        if there is not None:
            uids, dimension = there
            return EmbeddedPart(
                part=part,
                embedding_digest=digest,
                outcome="reused",
                dimension=dimension,
                work=Work(),
                num_usable_rows=len(uids),
                num_repeated_rows=0,
                uids=uids,
            )
        was_damaged = self._store.exists(embedding_path(digest))
        blocks, encoded = self._read_and_encode(part, encoder_digest)
        write_embeddings(self._store, spec, part, blocks.uids, encoded.embeddings_RD)
        return EmbeddedPart(
            part=part,
            embedding_digest=digest,
            outcome="mended" if was_damaged else "made",
            dimension=encoded.embeddings_RD.shape[1],
            work=encoded.work,
            num_usable_rows=len(encoded.embeddings_RD),
            num_repeated_rows=encoded.num_repeated_rows,
            uids=blocks.uids,
        )

    def encode_queries(self, token_ids: Sequence[Sequence[int]], encoder_digest: str) -> np.ndarray:
        """Query embeddings [B, D]."""
        queries = [np.asarray(tokens, dtype=np.uint16) for tokens in token_ids]
        return self._in_engine_thread(lambda: self._engine_of(encoder_digest).encode_queries(queries))

    def _usable_embeddings(self, digest: str, part: PartEntry) -> tuple[np.ndarray, int] | None:
        """uids and dimension of the embeddings that are there; None when they have to be made."""
        try:
            uids, embeddings_RD = read_embeddings(self._store, digest, part)
        except (ArtifactMissingError, ArtifactCorruptError):
            return None
        return (uids, embeddings_RD.shape[1]) if is_usable(embeddings_RD) else None

    def _read_and_encode(self, part: PartEntry, encoder_digest: str) -> tuple[BlocksOfPart, _Encoded]:
        table = read_part(self._store, part, ["uid", "title_token_ids", "body_token_ids"])
        blocks = BlocksOfPart(self._store, part, fixed_binary_to_numpy(table["uid"]))
        rows = _Rows(_token_lists(table, "title_token_ids"), _token_lists(table, "body_token_ids"))
        try:
            encoded = self._in_engine_thread(lambda: self._encode(rows, encoder_digest))
        except BlockError as error:
            raise blocks.error(error.rows, error.found) from error
        require_usable(_as_stored(encoded.embeddings_RD, self._precision), blocks)
        return blocks, encoded

    def _in_engine_thread(self, call: Callable[[], Value]) -> Value:
        return self._engine_thread.submit(call).result()

    def _engine_of(self, encoder_digest: str) -> Engine:
        if self._engine is None or encoder_digest != self._encoder_digest:
            self._engine = None  # the old engine's memory is free before the new one takes its own
            self._engine = self._loader.load(self._store, encoder_digest, self._precision)
            self._encoder_digest, self._num_repeated_rows = encoder_digest, 0
            with self._lock:
                self._progress = EmbedderProgress(self._progress.work, self._engine.peak_flops_per_second)
        return self._engine

    def _encode(self, rows: _Rows, encoder_digest: str) -> _Encoded:
        engine = self._engine_of(encoder_digest)
        work = Work()

        def count(more: Work) -> None:
            nonlocal work
            work += more
            with self._lock:
                self._progress = EmbedderProgress(self._progress.work + more, self._progress.peak_flops_per_second)

        embeddings_RD = engine.encode(rows.titles, rows.bodies, progress=count)
        if not self._num_repeated_rows:
            self._num_repeated_rows = _require_repeatable(engine, rows, embeddings_RD)
        return _Encoded(embeddings_RD, work, self._num_repeated_rows)


@dataclass(frozen=True, slots=True)
class _Rows:
    titles: list[np.ndarray]
    bodies: list[np.ndarray]


@dataclass(frozen=True, slots=True)
class _Encoded:
    embeddings_RD: np.ndarray
    work: Work
    num_repeated_rows: int


def _require_repeatable(engine: Engine, rows: _Rows, embeddings_RD: np.ndarray) -> int:
    """Embeds a few rows again, without the others; returns how many.

    Raises:
        EncoderError: the bits are not the same.
    """
    chosen = np.unique(np.linspace(0, len(rows.titles) - 1, min(NUM_REPEATED_ROWS, len(rows.titles)), dtype=np.int64))
    again_RD = engine.encode([rows.titles[i] for i in chosen], [rows.bodies[i] for i in chosen])
    differing = [i for i, again in zip(chosen.tolist(), again_RD, strict=True) if not _same(again, embeddings_RD[i])]
    if differing:
        raise EncoderError(
            where=f"{type(engine).__name__}, embedding {len(chosen)} blocks a second time",
            found=f"other bits in the rows {', '.join(map(str, differing))}",
            expected="the same embedding each time, whatever shares its batch",
            action="The encoder may not be in evaluation mode (dropout), or the device computes wrongly: try another "
            "device or --precision. Nothing was written.",
        )
    return len(chosen)


def _same(first_D: np.ndarray, second_D: np.ndarray) -> bool:
    return first_D.tobytes() == second_D.tobytes()


def _as_stored(embeddings_RD: np.ndarray, precision: str) -> np.ndarray:
    """What a reader of the file will get: float16 turns small rows into zeros and large values into infinity."""
    if stored_as(precision) == "float32":
        return embeddings_RD
    with np.errstate(over="ignore"):
        return embeddings_RD.astype(np.float16)


def _token_lists(table: pa.Table, name: str) -> list[np.ndarray]:
    column = table[name].combine_chunks()
    values = column.flatten().to_numpy()
    return np.split(values, np.cumsum(column.value_lengths().to_numpy())[:-1])
