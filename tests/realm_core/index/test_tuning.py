import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_core.errors import GateError
from realm_core.index.searcher import SearchHits
from realm_core.index.setting import DEFAULT_SETTING, SearchSetting
from realm_core.index.tuning import (
    LAST_FRACTIONS,
    SettingMeasurement,
    ShardMeasurement,
    choose,
    cost_microseconds,
    count_found,
    curve,
    first_settings,
    last_settings,
    require_choice,
)
from realm_core.storage.snapshots import ShardEntry


def point(fraction, num_reordered, recall, cost):
    return SettingMeasurement(
        leaf_fraction=fraction,
        num_reordered=num_reordered,
        recall_at_1=recall,
        recall_at_5=recall,
        recall_at_10=recall,
        cost_microseconds=cost,
        queries_per_second_per_core=1.0,
    )


def shard(kind, num_rows):
    return ShardEntry(digest="d", num_rows=num_rows, first_block_id=0, kind=kind, num_bytes=1)


POINTS = [point(1 / 64, 20, 0.90, 10.0), point(1 / 64, 64, 0.955, 17.0), point(1 / 16, 20, 0.95, 15.0)]


@pytest.mark.parametrize(
    ("target", "cost"), [(0.5, 10.0), (0.90, 10.0), (0.95, 15.0), (0.951, 17.0), (0.955, 17.0), (0.96, None)]
)
def test_the_cheapest_setting_that_meets_the_target_is_chosen(target, cost):
    chosen = choose(POINTS, target)
    assert (None if chosen is None else chosen.cost_microseconds) == cost


def test_a_target_that_nothing_meets_is_an_error_that_says_how_near_it_came():
    with pytest.raises(GateError, match=r"recall@5 of 0\.9550 at best, with .*0\.015625.*at least 0\.99.*--kind exact"):
        require_choice(POINTS, 0.99, where="here")


def test_kinds_that_compare_all_rows_have_one_setting():
    assert first_settings([shard("flat", 500), shard("exact", 500)]) == [DEFAULT_SETTING]
    assert last_settings([shard("flat", 500)]) == []


def test_no_setting_looks_into_less_than_a_leaf_of_the_largest_shard():
    fractions = {setting.leaf_fraction for setting in first_settings([shard("faiss", 100_000), shard("flat", 10)])}
    assert min(fractions) == pytest.approx(1 / 1024)
    assert max(fractions) == pytest.approx(1 / 8)
    assert {setting.leaf_fraction for setting in last_settings([shard("faiss", 100_000)])} == set(LAST_FRACTIONS)


def test_hits_of_shards_add_up_to_those_of_the_snapshot():
    exact = SearchHits(np.zeros((2, 10), np.float32), np.array([[*range(10)], [*range(10, 16), -1, -1, -1, -1]]))
    first = SearchHits(np.zeros((2, 10), np.float32), np.array([[0, 2, 4, 6, *[90] * 6], [*range(10, 13), *[-1] * 7]]))
    second = SearchHits(np.zeros((2, 10), np.float32), np.array([[1, 3, *[91] * 8], [14, 15, *[92] * 8]]))
    assert count_found(first, exact) == (2, 6, 7)
    assert count_found(second, exact) == (0, 3, 4)
    measurements = [
        [ShardMeasurement(setting=DEFAULT_SETTING, num_found=count_found(hits, exact), seconds=0.25)]
        for hits in (first, second)
    ]
    (measured,) = curve(measurements, [shard("flat", 10)] * 2, exact)
    assert (measured.recall_at_1, measured.recall_at_5) == (1.0, 9 / 10)
    assert measured.recall_at_10 == pytest.approx(11 / 16)
    assert measured.queries_per_second_per_core == 4.0
    assert measured.setting == DEFAULT_SETTING


@given(st.integers(-12, 0), st.integers(1, 400), st.sampled_from(["faiss", "scann"]), st.integers(50_001, 10**7))
def test_looking_into_more_never_costs_less(exponent, num_reordered, kind, num_rows):
    setting = SearchSetting(leaf_fraction=2.0**exponent, num_reordered=num_reordered)
    cost = cost_microseconds(setting, shard(kind, num_rows))
    more = SearchSetting(leaf_fraction=min(1.0, 2.0 ** (exponent + 1)), num_reordered=num_reordered + 50)
    assert 0 < cost <= cost_microseconds(more, shard(kind, num_rows))
