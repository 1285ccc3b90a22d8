import math

import numpy as np
import pytest
from support.snapshots import SyntheticStore

from cluster.shard_builds import _measure
from realm_core.index.setting import SearchSetting
from realm_core.index.shard_building import build_shard
from realm_core.index.shards import plan_shards
from realm_core.index.specs import IndexSpec
from realm_core.index.tuning import first_settings

NUM_QUERIES = 64


class OneShard:
    """A shard of a synthetic store, and what measuring it takes."""

    def __init__(self, folder, kind, num_blocks=400):
        filled = SyntheticStore(folder, num_blocks=num_blocks)
        embeddings = filled.embeddings(0)
        digests = filled.write(embeddings, "encoder-0")
        [plan] = plan_shards(filled.corpus.parts, digests, num_shards=1, spec=IndexSpec(kind=kind))
        self.queries = np.ascontiguousarray(embeddings[:NUM_QUERIES])
        self.store, self.built = filled.store, build_shard(filled.store, plan, self.queries, num_hits=10)

    def measure(self, settings, enough_recall, threads):
        return _measure(
            self.store.url, self.built.entry, self.queries, self.built.exact, settings, enough_recall, threads
        )


def test_a_shard_that_compares_all_rows_is_searched_once_for_all_settings(tmp_path):
    settings = [SearchSetting(leaf_fraction=fraction) for fraction in (0.1, 0.5, 1.0)]
    measured = OneShard(tmp_path, "auto").measure(settings, 0.5, 2)
    assert [one.setting for one in measured] == settings
    assert len({one.seconds for one in measured}) == 1


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_shard_is_measured_from_the_cheapest_setting_on_until_it_finds_enough(tmp_path, threads):
    shard = OneShard(tmp_path, "faiss", num_blocks=2_500)
    settings = first_settings([shard.built.entry])
    everything = shard.measure(settings, math.inf, threads)
    assert [one.setting for one in everything] == settings
    recalls = [one.own_recall for one in everything]
    enough = sorted(recalls)[len(recalls) // 2]
    num_needed = next(number for number, recall in enumerate(recalls, start=1) if recall >= enough)
    assert num_needed < len(settings)
    measured = shard.measure(settings, enough, threads)
    assert len(measured) == num_needed
    for one, expected in zip(measured, everything, strict=False):
        assert one.setting == expected.setting
        np.testing.assert_array_equal(one.ranks_BK, expected.ranks_BK)
