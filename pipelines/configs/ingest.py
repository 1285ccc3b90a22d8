"""What `realm ingest` takes."""

from __future__ import annotations

from dataclasses import dataclass

from realm_core.errors import UsageError
from realm_core.text.blocking import BlockRule


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestConfig:
    """Read a MediaWiki export or JSON lines of documents into block records."""

    store: str
    """Where artifacts live: a local folder or an fsspec URL."""
    source: str
    """MediaWiki XML export, or JSON lines with `title` and `text` or `paragraphs`; plain, bz2 or gz; path or URL."""
    encoder: str
    """Directory or hub id of the BERT-family checkpoint whose vocabulary tokenizes the corpus."""
    max_block_tokens: int = 288
    """Most word pieces of a block, title and three markers included (ORQA: 288)."""
    blocks: BlockRule = "sentences"
    """`sentences` are packed into blocks, across paragraphs (ORQA's rule); `paragraphs` become one block each, and a
    longer one is known by its first max-block-tokens."""
    keep_all_titles: bool = False
    """Keep lists, indexes, outlines and disambiguations, which ORQA's rule drops by their titles. The rule suits an
    encyclopedia, whose lists are names in rows; switch it off where every document is meant to be found."""
    num_parts: int | None = None
    """Parts that documents are spread over; by default those of the store's corpus, or about 16,384 blocks each."""
    address: str | None = None
    """Ray cluster to join (`auto`, `ray://...`); by default one is started on this machine."""

    def __post_init__(self) -> None:
        problems = [] if 32 <= self.max_block_tokens <= 512 else [f"--max-block-tokens {self.max_block_tokens}"]
        problems += [] if self.num_parts is None or self.num_parts >= 1 else [f"--num-parts {self.num_parts}"]
        if problems:
            raise UsageError(
                where="realm ingest",
                found=", ".join(problems),
                expected="32 <= max-block-tokens <= 512, num-parts >= 1",
                action="Correct these options.",
            )
