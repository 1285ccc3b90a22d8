import dataclasses

import pytest
from support.whole_snapshots import WholeStore

from realm_core.storage.files import Store
from realm_core.storage.snapshot_diff import Overlap, diff_snapshots


@pytest.fixture
def whole(tmp_path):
    return WholeStore(Store(str(tmp_path / "store")), tmp_path)


def overlap(num_shared, num_gone, num_new):
    return Overlap(num_shared=num_shared, num_gone=num_gone, num_new=num_new)


def test_another_encoder_shares_blocks_but_no_embeddings(whole):
    diff = diff_snapshots(whole.store, whole.make(1), whole.make(2))
    assert diff.blocks == overlap(60, 0, 0)
    assert diff.parts == overlap(3, 0, 0)
    assert diff.embeddings == overlap(0, 3, 3)
    assert diff.shards == overlap(0, 2, 2)
    assert diff.num_shared_shard_bytes == 0


def test_another_setting_shares_everything(whole):
    before = whole.make(1)
    after = dataclasses.replace(before, search_setting={"leaf_fraction": 0.5, "num_reordered": 200})
    diff = diff_snapshots(whole.store, before, after)
    assert diff.shards == overlap(2, 0, 0)
    assert diff.num_new_shard_bytes == 0
    assert diff.num_shared_shard_bytes == sum(shard.num_bytes for shard in before.shards)


def test_blocks_are_compared_by_uid_and_only_changed_parts_are_read(whole, tmp_path):
    before = whole.make(1, encoder_digest="e")
    old_parts = {part.digest for part in whole.corpus.parts}
    whole.ingest([*range(55), *range(100, 107)])
    after = whole.make(1, encoder_digest="e")
    shared = old_parts & {part.digest for part in whole.corpus.parts}
    for digest in shared:
        whole.store.remove(f"parts/{digest}.parquet")
    diff = diff_snapshots(whole.store, before, after)
    assert diff.blocks == overlap(55, 5, 7)
    assert diff.parts.num_shared == len(shared) == diff.embeddings.num_shared


def test_a_corpus_against_a_disjoint_one(whole):
    before = whole.make(1)
    whole.ingest(range(100, 130))
    assert diff_snapshots(whole.store, before, whole.make(1)).blocks == overlap(0, 60, 30)
