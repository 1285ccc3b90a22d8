"""Evidence: the blocks that answer a text query, with their words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from realm_core.retrieval.corpus_records import CorpusRecords
from realm_core.retrieval.query_encoder import QueryEncoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from realm_core.retrieval.snapshot_search import SnapshotSearch
    from realm_core.storage.block_store import BlockRecords
    from realm_core.storage.files import Store


@dataclass(frozen=True, slots=True)
class Evidence:
    """A block that was found for a query."""

    block_id: int
    relevance: float
    title: str
    body: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A span of evidence that answers a question, in the word pieces of the reader's vocabulary."""

    text: str
    block_id: int


@dataclass(frozen=True, slots=True)
class EvidenceResult:
    """Evidence of B queries, best first, and the snapshot all of it comes from."""

    queries: tuple[tuple[Evidence, ...], ...]
    snapshot_id: str
    encoder_step: int
    answers: tuple[Answer, ...] = ()
    """One per query where a reader was asked; each says in which block it stands."""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> EvidenceResult:
        """The result of `dataclasses.asdict`."""
        queries = tuple(tuple(Evidence(**block) for block in blocks) for blocks in value["queries"])
        answers = tuple(Answer(**answer) for answer in value.get("answers", ()))
        return cls(queries, value["snapshot_id"], value["encoder_step"], answers)


class EvidenceRetriever:
    """Text in, evidence out."""

    def __init__(self, store: Store, search: SnapshotSearch) -> None:
        self._store = store
        self._encoder = QueryEncoder(store, search)
        self._search = search
        self._records = CorpusRecords(store)

    def retrieve(self, texts: Sequence[str], num_hits: int, *, deadline_seconds: float = 30.0) -> EvidenceResult:
        """The `num_hits` most relevant blocks of each text; fewer where the corpus has fewer."""
        result = self._encoder.search_text(texts, num_hits, deadline_seconds=deadline_seconds)
        records = self._records.of(self._search.corpus_of(result.snapshot_id))
        rows = zip(result.block_ids_BK.tolist(), result.relevances_BK.tolist(), strict=True)
        found = tuple(tuple(_evidence(records, ids_K, relevances_K)) for ids_K, relevances_K in rows)
        return EvidenceResult(found, result.snapshot_id, result.encoder_step)


def _evidence(records: BlockRecords, block_ids_K: list[int], relevances_K: list[float]) -> list[Evidence]:
    found = [(i, r) for i, r in zip(block_ids_K, relevances_K, strict=True) if i >= 0]
    rows = records.take([block_id for block_id, _ in found], ["title", "body"])
    return [Evidence(i, r, row["title"], row["body"]) for (i, r), row in zip(found, rows, strict=True)]
