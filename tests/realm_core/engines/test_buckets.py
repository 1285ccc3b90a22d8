from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_core.engines.buckets import ShapeGrid, plan_batches
from realm_core.errors import UsageError


def grid(step=16, budget=96, longest=50):
    return ShapeGrid(bucket_step_tokens=step, max_tokens_per_batch=budget, max_length_tokens=longest)


def plan(lengths, shapes):
    return [(batch.indices.tolist(), batch.num_rows, batch.length_tokens) for batch in plan_batches(lengths, shapes)]


def test_a_plan_by_hand():
    lengths = [3, 33, 16, 17, 50, 49, 40]
    assert plan(lengths, grid()) == [
        ([4], 1, 50),
        ([5], 1, 50),
        ([1, 6], 2, 48),
        ([3], 3, 32),
        ([0, 2], 6, 16),
    ]


def test_no_rows_are_no_batches():
    assert plan([], grid()) == []


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 60), st.integers(1, 400))
def test_every_row_is_in_one_batch_of_a_shape_that_its_length_alone_decides(lengths, step, budget):
    shapes = grid(step, budget)
    seen = []
    for indices, num_rows, length_tokens in plan(lengths, shapes):
        assert 0 < len(indices) <= num_rows
        assert num_rows == max(1, budget // length_tokens)
        assert all(shapes.bucket(lengths[index]) == length_tokens for index in indices)
        assert all(lengths[index] <= length_tokens < lengths[index] + step for index in indices)
        seen += indices
    assert sorted(seen) == list(range(len(lengths)))


def test_the_longest_rows_come_first():
    lengths = [batch.length_tokens for batch in plan_batches(list(range(1, 51)), grid())]
    assert lengths == sorted(lengths, reverse=True)


def test_a_row_longer_than_the_encoder_is_named():
    with pytest.raises(UsageError, match=r"row 1 of 2: 51 tokens .* expected at most 50"):
        plan([3, 51], grid())


def test_a_grid_without_room_is_refused():
    with pytest.raises(UsageError, match="budget 0"):
        grid(budget=0)
