import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from realm_core.engines.packing import plan_packs


@given(st.lists(st.integers(1, 700), max_size=200), st.integers(1, 300))
def test_every_row_is_packed_once_and_fits(lengths, capacity):
    packs = list(plan_packs(np.array(lengths, dtype=np.int64), capacity))
    assert sorted(row for pack in packs for row in pack.rows.tolist()) == list(range(len(lengths)))
    for pack in packs:
        assert pack.num_tokens == sum(lengths[row] for row in pack.rows) <= pack.capacity_tokens


@given(st.lists(st.integers(1, 700), min_size=1, max_size=200), st.integers(1, 300))
def test_the_capacity_that_a_row_is_packed_into_follows_from_its_length_alone(lengths, capacity):
    for pack in plan_packs(np.array(lengths), capacity):
        for row in pack.rows:
            assert pack.capacity_tokens == -(-lengths[row] // capacity) * capacity


def test_the_longest_rows_come_first_and_gaps_are_filled_with_what_fits():
    packs = list(plan_packs(np.array([3, 10, 4, 7, 2, 10]), 16))
    assert [pack.rows.tolist() for pack in packs] == [[1, 2, 4], [5, 0], [3]]
    assert [pack.num_tokens for pack in packs] == [16, 13, 7]


def test_many_blocks_leave_little_room():
    lengths = np.random.default_rng(0).integers(16, 289, 4000)
    packs = list(plan_packs(lengths, 2048))
    assert lengths.sum() / sum(pack.capacity_tokens for pack in packs) > 0.99
