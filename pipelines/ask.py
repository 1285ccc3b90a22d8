"""`realm ask`: answers where the store has a reader, and the evidence for questions, in full."""

from __future__ import annotations

from dataclasses import replace

from pipelines.configs.ask import AskConfig
from pipelines.display import say
from pipelines.search import open_search
from realm_core.retrieval.evidence import EvidenceResult, EvidenceRetriever
from realm_core.storage.reader_store import current_reader, has_current_reader


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
