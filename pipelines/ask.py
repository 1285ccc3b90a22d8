"""`realm ask`: answers where the store has a reader, and the evidence for questions, in full."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import tyro

from pipelines.display import say
from pipelines.search import check_query, open_search
from realm_core.retrieval.evidence import EvidenceResult, EvidenceRetriever
from realm_core.storage.reader_store import current_reader, has_current_reader


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


def run_ask(config: AskConfig) -> EvidenceResult:
    """Evidence of all questions, from one snapshot, and answers if the store has a reader for its encoder.

    Raises:
        StoreError: nothing is published in the store.
        ServiceUnavailableError: no service on the cluster at `--address`.
    """
    with open_search(config.store, config.snapshot, config.address) as (store, search):
        found = EvidenceRetriever(store, search).retrieve(config.questions, config.num_evidence)
        if not has_current_reader(store):
            return found
        if current_reader(store).encoder_digest != search.live_snapshot().encoder_digest:
            say(f"ask: evidence only: the store's reader belongs to another encoder than snapshot {found.snapshot_id}")
            return found
        from realm_core.retrieval.question_answering import QuestionAnswerer

        return replace(found, answers=tuple(QuestionAnswerer(store, search).answer(config.questions)))
