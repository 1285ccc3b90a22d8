"""The retriever of the open-QA model: block ids in, evidence for the reader out.

Shapes: B questions, N blocks of a question, L tokens.
"""

# mypy: allow-untyped-calls
# transformers leaves some methods unannotated.

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from transformers import AutoTokenizer, BatchEncoding, PreTrainedTokenizerBase
from transformers.utils.hub import PushToHubMixin

from realm_core.errors import EncoderError
from realm_core.modeling.weights import HUB_OPTIONS, resolve_directory
from realm_core.retrieval.answer_positions import AnswerPositions, answer_positions
from realm_core.retrieval.block_texts import (
    NPY_NAME,
    PARQUET_NAME,
    BlockTextColumn,
    BlockTexts,
    StoredBlockTexts,
)

Answers = Sequence[Sequence[int]]


class RealmRetriever(PushToHubMixin):
    """Looks up blocks, joins each with its question, and finds the answers in it."""

    def __init__(
        self, block_records: BlockTexts | Sequence[bytes | str] | np.ndarray, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        """Takes texts in memory (byte strings or strings, by block id), or any `BlockTexts`."""
        self.block_records: BlockTexts = (
            BlockTextColumn.of(block_records) if isinstance(block_records, Sequence | np.ndarray) else block_records
        )
        self.tokenizer = tokenizer

    def __call__(
        self,
        retrieved_block_ids: Any,  # noqa: ANN401 - whatever NumPy takes
        question_input_ids: Any,  # noqa: ANN401
        answer_ids: Answers | Sequence[Answers] | None,
        max_length: int | None = None,
        return_tensors: str = "pt",
    ) -> tuple[list[Any] | None, list[Any] | None, list[Any] | None, BatchEncoding]:
        """Whether and where each block holds an answer, and the reader's inputs.

        For one question block ids are [N] and all results are lists over N, as in 4.40.2. For a batch block ids are
        [B, N], `answer_ids` a list over B, the first three results lists over B, and the inputs [B * N, L].

        Args:
            retrieved_block_ids: [N] or [B, N].
            question_input_ids: token ids [1, L] or [B, L] of the questions, with special tokens.
            answer_ids: token ids of each answer, without special tokens; None where there are none.
            max_length: where inputs are cut.
            return_tensors: "pt" or "np".

        Returns:
            has_answers, start_pos, end_pos (None without answers; positions padded with -1), and the inputs with
            `input_ids`, `token_type_ids`, `attention_mask`, `special_tokens_mask`.

        Raises:
            QueryError: a block id that is not there.
            UsageError: an answer without tokens, or evidence that `max_length` cuts off.
        """
        block_ids = np.asarray(retrieved_block_ids)
        block_ids_BN = block_ids if block_ids.ndim == 2 else block_ids.reshape(1, -1)
        inputs = self._join(block_ids_BN, question_input_ids, max_length)
        if answer_ids is None:
            return None, None, None, inputs.convert_to_tensors(return_tensors)
        answers_B = cast("Sequence[Answers]", answer_ids if block_ids.ndim == 2 else [answer_ids])
        ids_BNL = np.asarray(inputs["input_ids"]).reshape(*block_ids_BN.shape, -1)
        found = [self._positions(ids_NL, answers) for ids_NL, answers in zip(ids_BNL, answers_B, strict=True)]
        tensors = inputs.convert_to_tensors(return_tensors)
        if block_ids.ndim < 2:
            return (*found[0], tensors)
        has_answers, starts, ends = (list(values) for values in zip(*found, strict=True))
        return has_answers, starts, ends, tensors

    def block_has_answer(self, concat_inputs: BatchEncoding, answer_ids: Answers) -> AnswerPositions:
        """For each input whether it holds an answer, and where; see `answer_positions`."""
        return self._positions(np.asarray(concat_inputs["input_ids"]), answer_ids)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *init_inputs: Any,  # noqa: ANN401 - passed on to the tokenizer
        **kwargs: Any,  # noqa: ANN401
    ) -> RealmRetriever:
        """Block records and tokenizer of a directory or hub model.

        Reads `block_records.parquet`, which `save_pretrained` writes, else the published `block_records.npy`.

        Raises:
            EncoderError: there are no block records, or no such directory or hub model.
            SourceError, ArtifactCorruptError: the block records cannot be read.
        """
        hub_options = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        directory = resolve_directory(pretrained_model_name_or_path, with_block_records=True, **hub_options)
        tokenizer = AutoTokenizer.from_pretrained(directory, *init_inputs, **kwargs)
        if (directory / PARQUET_NAME).is_file():
            return cls(BlockTextColumn.read_parquet(directory / PARQUET_NAME), tokenizer)
        if (directory / NPY_NAME).is_file():
            return cls(BlockTextColumn.read_npy(directory / NPY_NAME), tokenizer)
        raise EncoderError(
            where=str(directory),
            found="no block records",
            expected=f"{PARQUET_NAME} or {NPY_NAME}",
            action="Copy the file beside the tokenizer, or use RealmRetriever.from_store.",
        )

    @classmethod
    def from_store(
        cls, store: str, tokenizer: PreTrainedTokenizerBase, *, corpus_digest: str | None = None
    ) -> RealmRetriever:
        """Over the block records of a store, memory-mapped: opening reads nothing."""
        return cls(StoredBlockTexts.open(store, corpus_digest), tokenizer)

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:  # noqa: ANN401
        """Writes `block_records.parquet` and the tokenizer; nothing is pickled."""
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        column = self.block_records
        if not isinstance(column, BlockTextColumn):
            column = BlockTextColumn.of(column.texts(range(len(column))))
        column.write_parquet(directory / PARQUET_NAME)
        self.tokenizer.save_pretrained(directory)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", directory.name), **kwargs)

    def _join(self, block_ids_BN: np.ndarray, question_input_ids: Any, max_length: int | None) -> BatchEncoding:  # noqa: ANN401
        questions = [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in question_input_ids]
        if len(questions) != len(block_ids_BN):
            raise ValueError(f"{len(questions)} questions with the block ids of {len(block_ids_BN)}")
        inputs: BatchEncoding = self.tokenizer(
            [question for question in questions for _ in range(block_ids_BN.shape[1])],
            self.block_records.texts(block_ids_BN.flatten().tolist()),
            padding=True,
            truncation=True,
            return_special_tokens_mask=True,
            max_length=max_length,
        )
        return inputs

    def _positions(self, ids_NL: np.ndarray, answer_ids: Answers) -> AnswerPositions:
        return answer_positions(ids_NL, self.tokenizer.sep_token_id, answer_ids)
