"""Recall@k of a live snapshot with a set of questions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from realm_core.evaluation.metrics import answer_recall_at_k, title_recall_at_k
from realm_core.text.answers import contains_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from realm_core.evaluation.datasets import Question
    from realm_core.retrieval.evidence import Evidence, EvidenceRetriever

RECALL_AT = 5
RECALL_SECONDS = 3600.0
"""For all questions: they are encoded by this process, beside training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotRecall:
    """How well one snapshot answers the questions."""

    snapshot_id: str
    encoder_step: int
    recall_at_5: float
    """Share of questions with an answer in one of the first five blocks, the block being of the question's article."""
    title_recall_at_5: float
    """Share of questions with any block of their article among the first five."""
    num_questions: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def measure_recall_at_5(retriever: EvidenceRetriever, questions: Sequence[Question]) -> SnapshotRecall:
    """Asks all questions at once; all are answered from one snapshot."""
    found = retriever.retrieve(
        [question.question for question in questions], RECALL_AT, deadline_seconds=RECALL_SECONDS
    )
    titles = [question.title or "" for question in questions]
    pairs = list(zip(found.queries, questions, strict=True))
    return SnapshotRecall(
        snapshot_id=found.snapshot_id,
        encoder_step=found.encoder_step,
        recall_at_5=answer_recall_at_k(
            [_texts_of_article(evidence, question.title) for evidence, question in pairs],
            [question.answers for question in questions],
            k=RECALL_AT,
            contains_answer=contains_answer,
        ),
        title_recall_at_5=title_recall_at_k(
            [[block.title for block in evidence] for evidence in found.queries], titles, k=RECALL_AT
        ),
        num_questions=len(questions),
    )


def _texts_of_article(evidence: Sequence[Evidence], title: str | None) -> list[str]:
    return [block.body if title in (None, block.title) else "" for block in evidence]
