"""Answers: what the store's reader finds in the evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from realm_core.errors import EncoderError
from realm_core.modeling.checkpoints import load_open_qa
from realm_core.modeling.retriever import RealmRetriever
from realm_core.modeling.tokenization import RealmTokenizer
from realm_core.retrieval.evidence import Answer
from realm_core.retrieval.query_encoder import MAX_QUERY_TOKENS
from realm_core.storage.reader_store import current_reader, reader_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from realm_core.retrieval.snapshot_search import SearchResult, SnapshotSearch
    from realm_core.storage.files import Store

QUESTIONS_PER_BATCH = 8
"""Read at a time: 40 joint inputs with the usual beam of 5."""


class QuestionAnswerer:
    """The store's reader over a snapshot of the encoder that retrieves for it."""

    def __init__(self, store: Store, search: SnapshotSearch) -> None:
        """Loads the reader.

        Raises:
            EncoderError: the store has no reader, its weights are incomplete, or the snapshot is another encoder's.
        """
        version, snapshot = current_reader(store), search.live_snapshot()
        if version.encoder_digest != snapshot.encoder_digest:
            raise EncoderError(
                where=f"snapshot {snapshot.snapshot_id}",
                found=f"encoder {snapshot.encoder_digest[:12]}",
                expected=f"encoder {version.encoder_digest[:12]}, which retrieves for the store's reader",
                action="Convert a reader of this encoder, or name a --snapshot of the other one.",
            )
        folder = reader_folder(store, version.digest)
        self._tokenizer = RealmTokenizer.from_pretrained(folder)
        self._model = load_open_qa(folder)
        self._model.retriever = RealmRetriever.from_store(
            store.url, self._tokenizer, corpus_digest=snapshot.corpus_digest
        )
        self._search = search

    def answer(self, questions: Sequence[str]) -> list[Answer]:
        """The most likely answer of each question."""
        return [answer for batch in _batches(questions) for answer in self._answer(batch)]

    @torch.inference_mode()
    def _answer(self, questions: list[str]) -> list[Answer]:
        searcher = _Remembering(self._search)
        self._model.searcher = searcher
        inputs = self._tokenizer(
            questions, padding=True, truncation=True, max_length=MAX_QUERY_TOKENS + 2, return_tensors="pt"
        )
        output = self._model(**inputs)
        spans, blocks = output.predicted_answer_ids, output.reader_output.block_idx
        if len(questions) == 1:
            spans, blocks = [spans], blocks[None]
        return [
            Answer(self._tokenizer.decode(ids), int(searcher.block_ids_BK[row, block]))
            for row, (ids, block) in enumerate(zip(spans, blocks.tolist(), strict=True))
        ]


class _Remembering:
    """A search that keeps the block ids it found."""

    def __init__(self, search: SnapshotSearch) -> None:
        self._search = search
        self.block_ids_BK = np.empty((0, 0), dtype=np.int64)

    def search(self, queries_BD: np.ndarray, num_hits: int) -> SearchResult:
        result = self._search.search(queries_BD, num_hits)
        self.block_ids_BK = result.block_ids_BK
        return result


def _batches(questions: Sequence[str]) -> list[list[str]]:
    return [list(questions[i : i + QUESTIONS_PER_BATCH]) for i in range(0, len(questions), QUESTIONS_PER_BATCH)]
