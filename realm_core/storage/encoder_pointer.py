"""Which encoder of the store is the newest: what `embed`, `index` and `pretrain` take unless told otherwise."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from realm_core.errors import EncoderError

if TYPE_CHECKING:
    from realm_core.storage.files import Store

POINTER_PATH = "encoders/CURRENT"
PUBLISHED_PREFIX = "published-"
"""Begins what stands in place of a precision in the names of published embeddings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderVersion:
    """An encoder of the store, and when it left training."""

    digest: str
    step: int
    """Step of pre-training; 0 before it."""
    saved_at_seconds: float
    """Seconds since the epoch: what staleness in seconds counts from."""
    published_precision: str | None = None
    """The encoder came with block embeddings that its publisher had computed, by another embedder than this one; in
    the store they bear this name in place of a precision, so that they are never taken for computed ones."""


def set_current_encoder(store: Store, version: EncoderVersion) -> None:
    """Makes it the store's newest encoder."""
    store.write_json(POINTER_PATH, asdict(version))


def has_current_encoder(store: Store) -> bool:
    """True when the store has an encoder."""
    return store.exists(POINTER_PATH)


def current_encoder(store: Store) -> EncoderVersion:
    """The store's newest encoder. Raises `EncoderError` when it has none."""
    if not has_current_encoder(store):
        raise EncoderError(
            where=f"store {store.url}",
            found="no encoder",
            expected="one, made by `realm warmup` or taken in by `realm embed --encoder`",
            action="Run `realm warmup --store … --encoder …`, or give --encoder.",
        )
    return EncoderVersion(**store.read_json(POINTER_PATH, required=("digest", "step", "saved_at_seconds")))
