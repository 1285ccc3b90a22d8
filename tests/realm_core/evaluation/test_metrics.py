from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_core.errors import UsageError
from realm_core.evaluation.metrics import answer_recall_at_k, overlap_at_k, title_recall_at_k

TITLES_BK = [["Oslo", "Bergen", "Rome"], ["Paris", "Lyon", "Nice"], ["Rome", "Oslo", "Bonn"]]


@pytest.mark.parametrize(("k", "recall"), [(1, 0.0), (2, 1 / 3), (3, 2 / 3), (50, 2 / 3)])
def test_title_recall_by_hand(k: int, recall: float) -> None:
    assert title_recall_at_k(TITLES_BK, ["Bergen", "Marseille", "Bonn"], k=k) == pytest.approx(recall)


def test_titles_are_compared_as_they_are() -> None:
    assert title_recall_at_k([["Paris"]], ["paris"], k=1) == 0.0


def contains(text: str, answers: Sequence[str]) -> bool:
    return any(answer in text for answer in answers)


@pytest.mark.parametrize(("k", "recall"), [(1, 0.5), (2, 1.0)])
def test_answer_recall_by_hand(k: int, recall: float) -> None:
    texts_BK = [["founded in 1048", "the capital"], ["a river", "the Seine flows"]]
    answers_B = [("1050", "1048"), ("Seine",)]
    assert answer_recall_at_k(texts_BK, answers_B, k=k, contains_answer=contains) == recall


def test_a_row_without_hits_finds_nothing() -> None:
    assert title_recall_at_k([[], ["Oslo"]], ["Oslo", "Oslo"], k=5) == 0.5


def test_overlap_by_hand() -> None:
    before_BK = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    after_BK = np.array([[4, 3, 9, 10], [5, 6, 7, 8]])
    assert overlap_at_k(before_BK, after_BK) == 0.75


def test_padding_is_no_hit() -> None:
    assert overlap_at_k(np.array([[1, 2, -1, -1]]), np.array([[2, 9, -1, -1]])) == 0.5


@given(st.permutations(list(range(12))))
def test_order_does_not_count(ids: list[int]) -> None:
    assert overlap_at_k(np.array([sorted(ids)]), np.array([ids])) == 1.0


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(UsageError, match="0 and 0 rows"):
        title_recall_at_k([], [], k=1)
    with pytest.raises(UsageError, match="1 and 2 rows"):
        title_recall_at_k([["Oslo"]], ["Oslo", "Rome"], k=1)
    with pytest.raises(UsageError, match="k=0"):
        title_recall_at_k([["Oslo"]], ["Oslo"], k=0)
    with pytest.raises(UsageError, match="no hits but padding"):
        overlap_at_k(np.array([[-1]]), np.array([[3]]))
