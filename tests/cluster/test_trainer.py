from __future__ import annotations

import pytest
from ray.train import WorkerGroupError

from cluster.trainer import merit_of, run_error
from realm_core.errors import StoreError, TrainingError


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


def test_an_error_names_each_rank_and_what_it_raised():
    failures = {1: MemoryError(), 0: AttributeError("no such thing\nin two lines")}
    error = run_error(WorkerGroupError("long text", failures), "a-run")
    assert isinstance(error, TrainingError)
    assert "run a-run" in str(error)
    assert "rank 0: AttributeError: no such thing; rank 1: MemoryError" in str(error)
    assert "two lines" not in str(error)


def test_an_error_of_many_ranks_names_the_first():
    error = run_error(WorkerGroupError("long text", {rank: ValueError(str(rank)) for rank in range(64)}), "a-run")
    assert "rank 3: ValueError: 3; 60 more ranks; expected" in str(error)


def test_an_error_of_ours_that_a_rank_raised_stays_itself():
    ours = StoreError(where="a", found="b", expected="c", action="d")
    assert run_error(WorkerGroupError("long text", {0: ValueError("x"), 1: ours}), "a-run") is ours
