"""SQuAD's articles as a corpus in memory, and the validation questions that recall is measured with.

Shapes: B queries, K hits.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.embed_blocks import read_documents, read_json_lines
from realm_core.evaluation.metrics import answer_recall_at_k
from realm_core.records import Document
from realm_core.text.answers import contains_answer
from realm_core.text.blocking import BlockBuilder
from realm_core.text.salient_spans import RuleTagger

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from tokenizers import Tokenizer

    from benchmarks.ablation_presets import Preset
    from realm_core.records import Block

RECALL_AT = 5
QUESTIONS_SEED = 20
MOST_OTHERS, MOST_OTHERS_OF_ARTICLE = 20, 5
"""Paragraphs other than its own that a salient span may stand in."""


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """A question as the embedder reads it, and what answers it."""

    token_ids: tuple[int, ...]
    title: str
    answers: tuple[str, ...]


class BlocksInMemory:
    """Block records by block id, as `realm_core.training.example_generator.Blocks` has them."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = blocks
        self.title_ids = [np.array(block.title_token_ids, dtype=np.uint16) for block in blocks]
        self.body_ids = [np.array(block.body_token_ids, dtype=np.uint16) for block in blocks]
        self._tokens = [{*block.title_token_ids, *block.body_token_ids} for block in blocks]
        starts: dict[str, int] = {}
        for number, block in enumerate(blocks):
            starts.setdefault(block.title, number)
        self._first_of_title = starts

    def __len__(self) -> int:
        return len(self.blocks)

    def take(self, block_ids: Iterable[int], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """One mapping per block id."""
        rows = [self._row(self.blocks[block_id]) for block_id in block_ids]
        return [{name: row[name] for name in columns or row} for row in rows]

    def uids(self, block_ids_K: np.ndarray) -> np.ndarray:
        """Uids [K] (S20) of blocks."""
        return np.array([self.blocks[block_id].uid for block_id in block_ids_K], dtype="S20")

    def token_ids(self, block_id: int) -> tuple[list[int], list[int]]:
        """Title and body token ids of a block."""
        return self.title_ids[block_id].tolist(), self.body_ids[block_id].tolist()

    def with_tokens(self, block_id: int, token_ids: Sequence[int]) -> list[int]:
        """The other blocks of the same article that have all of these tokens, in body or title."""
        title, wanted = self.blocks[block_id].title, set(token_ids)
        first = self._first_of_title[title]
        last = first
        while last < len(self.blocks) and self.blocks[last].title == title:
            last += 1
        return [other for other in range(first, last) if other != block_id and wanted <= self._tokens[other]]

    def neighbour(self, block_id: int) -> int:
        """The next block of the same article; after its last one its first."""
        title, following = self.blocks[block_id].title, block_id + 1
        if following < len(self.blocks) and self.blocks[following].title == title:
            return following
        return self._first_of_title[title]

    @staticmethod
    def _row(block: Block) -> dict[str, Any]:
        return {
            "title_token_ids": block.title_token_ids,
            "body_token_ids": block.body_token_ids,
            "sentence_starts": block.sentence_starts,
            "salient_span_starts": [start for start, _ in block.salient_spans],
            "salient_span_stops": [stop for _, stop in block.salient_spans],
        }


def read_corpus(data: Path, tokenizer: Tokenizer, preset: Preset) -> tuple[BlocksInMemory, list[AskedQuestion]]:
    """One block per paragraph, and the questions drawn for measuring, whose articles are always among the blocks.

    Salient spans are those that retrieval can help with, see `with_recurring_spans`.
    """
    asked = list(read_json_lines(data, "squad/questions-valid.jsonl.gz"))
    titles = {question["title"] for question in asked}
    articles = sorted(read_documents(data), key=lambda document: document.title not in titles)[: preset.num_articles]
    builder = BlockBuilder(
        tokenizer=tokenizer, max_block_tokens=preset.block_length_tokens, tagger=RuleTagger(), rule="paragraphs"
    )
    blocks = [
        block
        for number, article in enumerate(articles)
        for block in builder.blocks(Document(str(number), article.title, article.paragraphs))
    ]
    drawn = np.random.default_rng(QUESTIONS_SEED).permutation(len(asked))[: preset.num_questions]
    limit = preset.query_length_tokens - 2
    questions = [
        AskedQuestion(
            tuple(tokenizer.encode(fields["question"], add_special_tokens=False).ids[:limit]),
            fields["title"],
            tuple(fields["answers"]),
        )
        for fields in (asked[number] for number in sorted(drawn))
    ]
    return BlocksInMemory(with_recurring_spans(blocks)), questions


def with_recurring_spans(blocks: Sequence[Block]) -> list[Block]:
    """The blocks with those salient spans alone that some others of their article have, and few of all others.

    Hardly a fact of all Wikipedia stands in one block alone; of the salient spans of SQuAD's paragraphs 43 % stand in
    no other paragraph of their article, so that there is nothing to retrieve for them. What nearly all paragraphs of an
    article have tells none of them from another. And of the paragraphs that have what is left 2 % are of the article:
    years and nationalities, with which retrieval learns to prefer paragraphs full of these to those of the topic.
    """
    tokens = [{*block.title_token_ids, *block.body_token_ids} for block in blocks]
    having: dict[int, set[int]] = defaultdict(set)
    for number, token_ids in enumerate(tokens):
        for token_id in token_ids:
            having[token_id].add(number)

    def recurs(number: int, span: tuple[int, int]) -> bool:
        wanted = blocks[number].body_token_ids[slice(*span)]
        others = set.intersection(*sorted((having[token_id] for token_id in wanted), key=len)) - {number}
        of_article = sum(blocks[other].title == blocks[number].title for other in others)
        return len(others) <= MOST_OTHERS and 1 <= of_article <= MOST_OTHERS_OF_ARTICLE

    return [
        replace(block, salient_spans=tuple(span for span in block.salient_spans if recurs(number, span)))
        for number, block in enumerate(blocks)
    ]


def recall_at_5(blocks: BlocksInMemory, questions: Sequence[AskedQuestion], hits_BK: np.ndarray) -> float:
    """Share of questions with an answer in one of the first five blocks, the block being of the question's article.

    Stricter than the paper's, which takes an answer in any article: most of SQuAD's answers stand in many.
    """
    texts = [
        [_text_of_article(blocks.blocks[hit], question.title) for hit in hits_K]
        for hits_K, question in zip(hits_BK.tolist(), questions, strict=True)
    ]
    answers = [question.answers for question in questions]
    return answer_recall_at_k(texts, answers, k=RECALL_AT, contains_answer=contains_answer)


def _text_of_article(block: Block, title: str) -> str:
    return block.body if block.title == title else ""
