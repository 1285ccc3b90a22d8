"""`realm ask`: the evidence for questions, in full."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from pipelines.search import check_query, open_search
from realm_core.retrieval.evidence import EvidenceResult, EvidenceRetriever
from realm_core.storage.files import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class AskConfig:
    """Print the evidence blocks for one or more questions, with titles and relevances."""

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
    """Evidence of all questions, from one snapshot.

    Raises:
        StoreError: nothing is published in the store.
        ServiceUnavailableError: no service on the cluster at `--address`.
    """
    store = Store(config.store)
    with open_search(store, config.snapshot, config.address) as search:
        return EvidenceRetriever(store, search).retrieve(config.questions, config.num_evidence)
