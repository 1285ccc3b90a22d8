"""Where answers stand in evidence, by token ids.

Shapes: N inputs, L tokens, W answers of an input.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from realm_core.errors import UsageError

NO_ANSWER = -1
"""Fills up the positions of inputs with fewer answers than others."""

AnswerPositions = tuple[list[bool], list[list[int]], list[list[int]]]
"""For each input whether it holds an answer, and the first and last token of each occurrence."""


def answer_positions(
    ids_NL: np.ndarray, separator_id: int, answer_ids: Sequence[Sequence[int]], *, where: str = "answer_ids"
) -> AnswerPositions:
    """Every occurrence of every answer in the evidence of each input.

    Occurrences are listed answer by answer, then from left to right; inputs with fewer than others are filled up with
    -1.

    Args:
        ids_NL: token ids of `[CLS] question [SEP] evidence [SEP]`, padded.
        separator_id: the id of [SEP].
        answer_ids: token ids of each answer.
        where: names the answers in an error.

    Raises:
        UsageError: an answer without tokens, or an input without two separators.
    """
    answers = [np.asarray(answer, dtype=np.int64) for answer in answer_ids]
    if any(len(answer) == 0 for answer in answers):
        raise UsageError(
            where=where,
            found="an answer without tokens",
            expected="at least one token id for each answer",
            action="Leave empty answers out before tokenizing, and tokenize with add_special_tokens=False.",
        )
    is_evidence_NL = _is_evidence(np.asarray(ids_NL), separator_id)
    found = [_occurrences(row, inside, answers) for row, inside in zip(ids_NL, is_evidence_NL, strict=True)]
    most = max((len(starts) for starts, _ in found), default=0)
    return (
        [len(starts) > 0 for starts, _ in found],
        [starts + [NO_ANSWER] * (most - len(starts)) for starts, _ in found],
        [ends + [NO_ANSWER] * (most - len(ends)) for _, ends in found],
    )


def _is_evidence(ids_NL: np.ndarray, separator_id: int) -> np.ndarray:
    is_separator_NL = ids_NL == separator_id
    num_before_NL = is_separator_NL.cumsum(1)
    if ids_NL.size and num_before_NL[:, -1].min() < 2:
        row = int(num_before_NL[:, -1].argmin())
        raise UsageError(
            where=f"input {row}",
            found=f"{num_before_NL[row, -1]} [SEP] tokens",
            expected="two: one after the question and one after the evidence",
            action="Tokenize question and evidence as a pair; raise max_length if it cuts the evidence off.",
        )
    is_evidence_NL: np.ndarray = (num_before_NL == 1) & ~is_separator_NL
    return is_evidence_NL


def _occurrences(
    ids_L: np.ndarray, is_evidence_L: np.ndarray, answers: list[np.ndarray]
) -> tuple[list[int], list[int]]:
    starts: list[int] = []
    ends: list[int] = []
    for answer in answers:
        first_L = np.flatnonzero(is_evidence_L & (ids_L == answer[0]))
        whole = [start for start in first_L.tolist() if np.array_equal(ids_L[start : start + len(answer)], answer)]
        starts += whole
        ends += [start + len(answer) - 1 for start in whole]
    return starts, ends
