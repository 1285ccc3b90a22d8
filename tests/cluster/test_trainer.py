from __future__ import annotations

import pytest

from cluster.trainer import merit_of


def line(step, utility, masked_tokens):
    return {"step": step, "retrieval_utility": utility, "masked_tokens": masked_tokens}


def test_the_merit_of_a_checkpoint_counts_each_masked_token_once():
    merit = merit_of([line(4, 1.0, 1), line(5, 0.2, 3)], interval_steps=2)
    assert (merit.step, merit.is_whole) == (5, True)
    assert merit.retrieval_utility == pytest.approx((1.0 + 3 * 0.2) / 4)


def test_an_interval_of_fewer_steps_is_not_whole():
    assert not merit_of([line(5, 0.2, 3)], interval_steps=2).is_whole


def test_a_warmup_has_no_merit():
    assert merit_of([{"step": 1, "loss": 2.0}], interval_steps=1) is None
    assert merit_of([], interval_steps=1) is None
