from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_core.errors import ArtifactCorruptError, UsageError
from realm_core.index.setting import DEFAULT_SETTING, SearchSetting


@given(leaf_fraction=st.floats(0, 1, exclude_min=True), num_reordered=st.integers(1, 10**6))
def test_settings_survive_json(leaf_fraction, num_reordered):
    setting = SearchSetting(leaf_fraction=leaf_fraction, num_reordered=num_reordered)
    assert SearchSetting.from_json(json.loads(json.dumps(setting.to_json()))) == setting


def test_leaves_and_reordered_by_hand():
    setting = SearchSetting(leaf_fraction=1 / 64, num_reordered=20)
    assert (setting.leaves_for(4_096, 10, 3_000_000), setting.reordered_for(10, 3_000_000)) == (64, 20)
    assert (setting.leaves_for(32, 10, 3_000_000), setting.reordered_for(10, 15)) == (1, 15)


def test_more_hits_reorder_more_candidates_and_look_into_more_leaves():
    assert (DEFAULT_SETTING.leaves_for(512, 10, 100_000), DEFAULT_SETTING.reordered_for(10, 100_000)) == (64, 200)
    assert (DEFAULT_SETTING.leaves_for(512, 2_000, 100_000), DEFAULT_SETTING.reordered_for(2_000, 100_000)) == (
        82,
        2_000,
    )
    assert DEFAULT_SETTING.leaves_for(512, 90_000, 100_000) == 512


@pytest.mark.parametrize("leaf_fraction", [0.0, -0.5, 1.5, float("nan")])
def test_all_problems_are_named_at_once(leaf_fraction):
    with pytest.raises(UsageError, match=rf"leaf_fraction = {leaf_fraction} .*num_reordered = 0"):
        SearchSetting(leaf_fraction=leaf_fraction, num_reordered=0)


@pytest.mark.parametrize(
    "values", [{}, {"leaf_fraction": 0.5}, {"leaf_fraction": 0.5, "num_reordered": 9, "nprobe": 1}]
)
def test_a_setting_of_another_version_is_refused(values):
    with pytest.raises(ArtifactCorruptError, match="Run `realm index` again"):
        SearchSetting.from_json(values)
