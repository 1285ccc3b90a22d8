"""What `realm index` takes."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.validation import at_least, require_share
from realm_core.engines.precision import PrecisionChoice
from realm_core.index.specs import IndexKind


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexConfig:
    """Build sharded indexes over the newest embeddings, check their recall, publish the snapshot."""

    store: str
    """Where artifacts live: a local folder or an fsspec URL."""
    kind: IndexKind = "auto"
    """exact: every row is compared, on the GPU where there is one. faiss: clusters, codes and float16 vectors in mapped
    files. scann: the like in memory, Linux only. auto: faiss. Shards of up to 2,000 rows (auto: 50,000) are `flat`
    instead: FAISS compares every row."""
    num_shards: int = 2
    """Index shards; each covers a fixed group of parts and is served by a process of its own."""
    target_recall: float = 0.95
    """Share of the exact top 5 that searches must find: the cheapest way to search that reaches it, measured on
    sentences of the corpus, is chosen; where none does, nothing is published."""
    precision: PrecisionChoice = "auto"
    """Which embeddings to index: fp32, bf16, int8, or auto: those that a published model brought along, else those of
    the last complete `realm embed`."""
    address: str | None = None
    """Ray cluster to join (`auto`, `ray://...`); by default one is started on this machine."""

    def __post_init__(self) -> None:
        at_least("realm index", num_shards=(self.num_shards, 1))
        require_share("realm index", target_recall=self.target_recall)
