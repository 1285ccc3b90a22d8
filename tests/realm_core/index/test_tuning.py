import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_core.errors import GateError
from realm_core.index.merge import merge_top_k
from realm_core.index.searcher import SearchHits
from realm_core.index.setting import DEFAULT_SETTING, SearchSetting
from realm_core.index.tuning import (
    LAST_FRACTIONS,
    NOT_FOUND,
    SettingMeasurement,
    ShardMeasurement,
    choose,
    cost_microseconds,
    curve,
    enough_for_a_shard,
    first_settings,
    last_settings,
    ranks_of,
    require_choice,
    tune,
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


def hits(*rows):
    """By falling relevance, filled up to ten."""
    lists = [[*row, *[-1] * (10 - len(row))] for row in rows]
    relevances = [[float(-column) if row >= 0 else -np.inf for column, row in enumerate(line)] for line in lists]
    return SearchHits(np.array(relevances, np.float32), np.array(lists))


def measured(own, found, seconds=0.25):
    return ShardMeasurement(setting=DEFAULT_SETTING, exact=own, ranks_BK=ranks_of(own, found), seconds=seconds)


def test_hits_of_shards_add_up_to_those_of_the_snapshot():
    exact = hits(range(10), range(10, 16))
    found = [hits([0, 2, 4, 6, *[90] * 6], range(10, 13)), hits([1, 3, *[91] * 8], [14, 15, *[92] * 8])]
    first, second = [measured(exact, one) for one in found]
    assert first.num_found(exact) == (2, 6, 7)
    assert second.num_found(exact) == (0, 3, 4)
    (point,) = curve([[first], [second]], [shard("flat", 10)] * 2, exact)
    assert (point.recall_at_1, point.recall_at_5) == (1.0, 9 / 10)
    assert point.recall_at_10 == pytest.approx(11 / 16)
    assert point.queries_per_second_per_core == 4.0
    assert point.setting == DEFAULT_SETTING


def test_a_hit_is_found_at_the_place_where_it_is():
    ranks = ranks_of(hits([5, 7, 9], [1]), hits([9, 5], [3, 2]))
    assert ranks[0].tolist() == [1, NOT_FOUND, 0, *[NOT_FOUND] * 7]
    assert set(ranks[1].tolist()) == {NOT_FOUND}


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 60))
def test_a_shard_measured_by_its_own_exact_hits_counts_as_by_those_of_the_snapshot(seed, num_shards, num_rows):
    rng = np.random.default_rng(seed)
    relevances_BR = rng.permutation(3 * num_rows).reshape(3, num_rows).astype(np.float32)
    shard_of_R = rng.integers(num_shards, size=num_rows)
    own = []
    for number in range(num_shards):
        rows = np.flatnonzero(shard_of_R == number)
        order = np.argsort(-relevances_BR[:, rows], axis=1)[:, :10]
        own.append(SearchHits(np.take_along_axis(relevances_BR[:, rows], order, axis=1), rows[order]).padded(10))
    exact = merge_top_k(own, 10)
    for mine in own:
        some = SearchHits(mine.relevances_BK, np.where(rng.random(mine.rows_BK.shape) < 0.3, -1, mine.rows_BK))
        assert measured(mine, some).num_found(exact) == measured(exact, some).num_found(exact)


@given(st.integers(-12, 0), st.integers(1, 400), st.sampled_from(["faiss", "scann"]), st.integers(50_001, 10**7))
def test_looking_into_more_never_costs_less(exponent, num_reordered, kind, num_rows):
    setting = SearchSetting(leaf_fraction=2.0**exponent, num_reordered=num_reordered)
    cost = cost_microseconds(setting, shard(kind, num_rows))
    more = SearchSetting(leaf_fraction=min(1.0, 2.0 ** (exponent + 1)), num_reordered=num_reordered + 50)
    assert 0 < cost <= cost_microseconds(more, shard(kind, num_rows))


class ShardsOfLuck:
    """Two shards with leaves; each exact hit is found from some setting on, in the order of settings."""

    ENTRIES = (shard("faiss", 60_000), shard("faiss", 60_000))
    SETTINGS = tuple(first_settings(ENTRIES))

    def __init__(self, seed, last_needed):
        rng = np.random.default_rng(seed)
        scores = -np.sort(-rng.random((2, 30, 10)).astype(np.float32), axis=2)
        self.own = [SearchHits(scores[i], np.arange(300).reshape(30, 10) + 300 * i) for i in range(2)]
        self.exact = merge_top_k(self.own, 10)
        self.needed = [rng.integers(0, last + 1, size=(30, 10)) for last in last_needed]
        self.asked = []

    def measured(self, i, numbers):
        places = np.arange(10, dtype=np.uint8)
        return [
            ShardMeasurement(
                setting=self.SETTINGS[number],
                exact=self.own[i],
                ranks_BK=np.where(self.needed[i] <= number, places, NOT_FOUND).astype(np.uint8),
                seconds=1.0,
            )
            for number in numbers
        ]

    def measured_until(self, i, enough):
        everything = self.measured(i, range(len(self.SETTINGS)))
        stop = next((n for n, one in enumerate(everything, start=1) if one.own_recall >= enough), len(everything))
        return everything[:stop]

    def measure_more(self, settings):
        self.asked += settings
        return [self.measured(i, [self.SETTINGS.index(setting) for setting in settings]) for i in range(2)]

    def tune(self, measured, target):
        points = tune(
            measured, self.SETTINGS, self.ENTRIES, self.exact, target_recall=target, measure_more=self.measure_more
        )
        assert len({point.setting for point in points}) == len(points)
        return choose(points, target)


def test_first_settings_are_in_the_order_of_their_cost():
    costs = [sum(cost_microseconds(setting, one) for one in ShardsOfLuck.ENTRIES) for setting in ShardsOfLuck.SETTINGS]
    assert costs == sorted(costs)


@given(
    seed=st.integers(0, 1000),
    last_needed=st.tuples(st.integers(0, 80), st.integers(0, 80)),
    target=st.sampled_from([0.5, 0.8, 0.95, 1.0]),
)
def test_a_curve_that_ends_early_gives_the_choice_of_the_whole(seed, last_needed, target):
    shards = ShardsOfLuck(seed, last_needed)
    whole = shards.tune([shards.measured(i, range(len(shards.SETTINGS))) for i in range(2)], target)
    assert not shards.asked
    chosen = shards.tune([shards.measured_until(i, enough_for_a_shard(target)) for i in range(2)], target)
    assert chosen.setting == whole.setting


def test_costlier_settings_are_measured_where_a_shard_ended_too_early():
    shards = ShardsOfLuck(0, (3, 60))
    measured = [shards.measured_until(i, enough_for_a_shard(0.95)) for i in range(2)]
    first, second = map(len, measured)
    assert first < second < len(shards.SETTINGS)
    assert shards.tune(measured, 0.95) is not None
    assert shards.asked == list(shards.SETTINGS[first:second])
