"""What `realm ask` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from pipelines.configs.search import check_query


@dataclass(frozen=True, kw_only=True, slots=True)
class AskConfig:
    """Answer one or more questions: the reader's answer if the store has a reader, and the evidence blocks."""

    questions: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Questions in plain words."""
    store: str
    """Where artifacts live: a local folder or an fsspec URL."""
    num_evidence: int = 3
    """Evidence blocks per question."""
    snapshot: str | None = None
    """Snapshot to ask; by default the published one. Not with --address."""
    address: str | None = None
    """Ray cluster whose retrieval service answers (`auto`, `ray://...`); by default this process opens the store."""

    def __post_init__(self) -> None:
        for question in self.questions or ("",):
            check_query("realm ask", question, self.num_evidence, self.snapshot, self.address)
