"""How good retrieval is, and how much it changes.

Shapes: B queries, K hits, best first. A row of fewer than k hits (a corpus of fewer blocks) counts as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from realm_core.errors import UsageError

Hit = TypeVar("Hit")
Wanted = TypeVar("Wanted")


def title_recall_at_k(hit_titles_BK: Sequence[Sequence[str]], titles_B: Sequence[str], *, k: int) -> float:
    """Share of questions with a block of their own article among the first k hits; titles are compared as they are."""
    return _recall(hit_titles_BK, titles_B, k, lambda hit, title: hit == title)


def answer_recall_at_k(
    hit_texts_BK: Sequence[Sequence[str]],
    answers_B: Sequence[Sequence[str]],
    *,
    k: int,
    contains_answer: Callable[[str, Sequence[str]], bool],
) -> float:
    """Share of questions with an answer in the text of one of the first k hits (recall@k of REALM, table 2).

    `contains_answer(text, answers)` decides; it is not asked again about a question once it has said yes.
    """
    return _recall(hit_texts_BK, answers_B, k, contains_answer)


def _recall(
    hits_BK: Sequence[Sequence[Hit]], wanted_B: Sequence[Wanted], k: int, is_relevant: Callable[[Hit, Wanted], bool]
) -> float:
    _check(len(hits_BK), len(wanted_B), k)
    found = [any(is_relevant(hit, wanted) for hit in row[:k]) for row, wanted in zip(hits_BK, wanted_B, strict=True)]
    return sum(found) / len(found)


def overlap_at_k(before_BK: npt.NDArray[np.int64], after_BK: npt.NDArray[np.int64]) -> float:
    """Share of the hits before that are still among the hits after, by block id; order within the k does not count.

    Padding (-1) is no hit. How far one refresh moves retrieval: 1 when it moves nothing.
    """
    _check(len(before_BK), len(after_BK), before_BK.shape[1])
    rows = zip(before_BK.tolist(), after_BK.tolist(), strict=True)
    kept = [(block_id in after) for before, after in rows for block_id in before if block_id != -1]
    if not kept:
        raise _error("no hits but padding (-1)", "at least one hit")
    return sum(kept) / len(kept)


def _check(num_rows: int, num_expected: int, k: int) -> None:
    if num_rows == 0 or num_rows != num_expected or k < 1:
        raise _error(f"{num_rows} and {num_expected} rows, k={k}", "equally many rows, at least one, and k >= 1")


def _error(found: str, expected: str) -> UsageError:
    return UsageError(
        where="retrieval metrics",
        found=found,
        expected=expected,
        action="Pass one row of hits per question, and at least one question.",
    )
