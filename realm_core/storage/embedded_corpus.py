"""Which embeddings of a corpus by an encoder are complete: written when all were made and checked, the last time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realm_core.storage.files import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedCorpus:
    """All embeddings of a corpus by an encoder, in one precision."""

    corpus_digest: str
    encoder_digest: str
    precision: str
    """Name of the arithmetic and the stored type, see `realm_core.engines.precision`."""
    dimension: int
    num_rows: int
    embedding_digests: tuple[str, ...]
    """One per part, in the corpus manifest's order."""
    checks: dict[str, Any]
    """What was looked at, as `GateReport.to_json` has it."""
    created_at_seconds: float
    """Since the epoch."""


def save_embedded_corpus(store: Store, embedded: EmbeddedCorpus) -> None:
    """Makes it the last complete embedding of that corpus by that encoder."""
    store.write_json(embedded_corpus_path(embedded.corpus_digest, embedded.encoder_digest), asdict(embedded))


def load_embedded_corpus(store: Store, corpus_digest: str, encoder_digest: str) -> EmbeddedCorpus:
    """The last complete one. Raises `ArtifactMissingError` when there is none."""
    return _read(store, embedded_corpus_path(corpus_digest, encoder_digest))


def list_embedded_corpora(store: Store) -> list[EmbeddedCorpus]:
    """The last complete one of each corpus and encoder."""
    return [_read(store, f"embedded/{name}") for name in store.list("embedded")]


def has_embedded_corpus(store: Store, corpus_digest: str, encoder_digest: str) -> bool:
    """True when the corpus was completely embedded by that encoder, in whatever precision."""
    return store.exists(embedded_corpus_path(corpus_digest, encoder_digest))


def embedded_corpus_path(corpus_digest: str, encoder_digest: str) -> str:
    """Where the record is."""
    return f"embedded/{corpus_digest[:16]}-{encoder_digest[:16]}.json"


def _read(store: Store, path: str) -> EmbeddedCorpus:
    value = store.read_json(path, required=("precision", "embedding_digests", "checks"))
    return EmbeddedCorpus(**{**value, "embedding_digests": tuple(value["embedding_digests"])})
