"""What `realm convert` takes."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.validation import at_least
from realm_core.storage.block_store import ROWS_PER_PART


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertConfig:
    """Bring a published REALM model into the store: encoder, reader, block records and their embeddings."""

    store: str
    """Where artifacts live: a local folder or an fsspec URL."""
    model: str
    """Directory or hub id of a published model, such as google/realm-orqa-nq-openqa."""
    block_records: str | None = None
    """A block_records.npy that lies elsewhere than beside the weights."""
    rows_per_part: int = ROWS_PER_PART
    """Records of a part: the unit of work, and of what a rerun finds done."""
    address: str | None = None
    """Ray cluster to join (`auto`, `ray://...`); by default one is started on this machine."""

    def __post_init__(self) -> None:
        at_least("realm convert", rows_per_part=(self.rows_per_part, 1))
