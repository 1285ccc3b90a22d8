from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_core.errors import UsageError
from realm_core.retrieval.answer_positions import answer_positions

CLS, SEP, PAD = 101, 102, 0


def inputs(*evidence, question=(7, 8), width=14):
    rows = [[CLS, *question, SEP, *tokens, SEP] for tokens in evidence]
    return np.array([row + [PAD] * (width - len(row)) for row in rows])


def test_every_occurrence_of_every_answer_is_found_in_the_evidence_only():
    ids = inputs((7, 9, 7, 8), (5, 5, 5), (1,))
    has_answers, starts, ends = answer_positions(ids, SEP, [[7], [7, 8], [5, 5]])
    assert has_answers == [True, True, False]
    assert starts == [[4, 6, 6], [4, 5, -1], [-1, -1, -1]]
    assert ends == [[4, 6, 7], [5, 6, -1], [-1, -1, -1]]


def test_no_answers_at_all_is_no_answer_anywhere():
    assert answer_positions(inputs((1, 2)), SEP, []) == ([False], [[]], [[]])


def test_an_answer_without_tokens_and_cut_evidence_are_refused():
    with pytest.raises(UsageError, match="without tokens"):
        answer_positions(inputs((1,)), SEP, [[1], []])
    with pytest.raises(UsageError, match=r"input 1: 1 \[SEP\] tokens"):
        answer_positions(np.array([[CLS, 1, SEP, 2, SEP], [CLS, 1, 1, 1, SEP]]), SEP, [[1]])


@given(st.lists(st.integers(1, 3), min_size=1, max_size=8), st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_positions_are_those_of_a_search_by_hand(evidence, answer):
    _, starts, ends = answer_positions(inputs(evidence), SEP, [answer])
    offset = 4
    expected = [i for i in range(len(evidence)) if evidence[i : i + len(answer)] == answer]
    assert starts[0] == [i + offset for i in expected]
    assert ends[0] == [i + offset + len(answer) - 1 for i in expected]
