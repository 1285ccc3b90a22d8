"""What the retriever gives for some blocks, questions and answers, as plain values."""

from __future__ import annotations

from typing import Any

import torch
from golden.blocks import ANSWERS, QUESTIONS, block_records
from golden.configurations import VOCABULARY

Json = Any
BLOCK_IDS = [0, 7, 3, 12, 6, 9]
MAX_LENGTHS = (16, 32, None)
OVERLAPPING = {
    "concat": [[2, 50, 3, 60, 61, 60, 61, 60, 3], [2, 3, 61, 60, 60, 61, 3, 0, 0]],
    "answers": [[60, 61, 60], [61]],
}
"""Answers that overlap themselves, in two joint inputs of question and block."""


def retrievals(library: Any, tokenizer_name: str) -> dict[str, Json]:
    """For every question and length the joint inputs, and for all answers what `block_has_answer` finds in them."""
    tokenizer = getattr(library, tokenizer_name)(str(VOCABULARY))
    retriever = library.RealmRetriever(block_records(), tokenizer)
    ids = {question: tokenizer([text], return_tensors="pt")["input_ids"] for question, text in QUESTIONS.items()}
    return {
        f"{question}, {max_length}": _retrieved(retriever, ids[question], max_length)
        for question in QUESTIONS
        for max_length in MAX_LENGTHS
    }


def _retrieved(retriever: Any, question_ids: torch.Tensor, max_length: int | None) -> Json:
    blocks = torch.tensor(BLOCK_IDS)
    *nothing, concat = retriever(blocks, question_ids, None, max_length)
    found = {"concat": {name: values.tolist() for name, values in concat.items()}, "without answers": nothing}
    for name, answers in ANSWERS.items():
        answer_ids = retriever.tokenizer(answers, add_special_tokens=False)["input_ids"]
        has_answers, starts, ends, _ = retriever(blocks, question_ids, answer_ids, max_length=max_length)
        found[name] = [list(has_answers), starts, ends]
    return found


def overlapping_answers(library: Any) -> Json:
    """`block_has_answer` of two joint inputs made by hand."""
    tokenizer = library.RealmTokenizerFast(str(VOCABULARY))
    concat = type(tokenizer(""))({"input_ids": torch.tensor(OVERLAPPING["concat"])})
    found = library.RealmRetriever(block_records(), tokenizer).block_has_answer(concat, OVERLAPPING["answers"])
    return [list(part) for part in found]
