import numpy as np
from support.snapshots import SyntheticStore

from cluster.shard_builds import _measure
from realm_core.index.setting import SearchSetting
from realm_core.index.shard_building import build_shard
from realm_core.index.shards import plan_shards
from realm_core.index.specs import IndexSpec
from realm_core.storage.block_store import read_part
from realm_core.storage.digests import fixed_binary_to_numpy
from realm_core.storage.embedding_store import EmbeddingSpec, write_embeddings


def test_a_shard_that_compares_all_rows_is_searched_once_for_all_settings(tmp_path):
    filled = SyntheticStore(tmp_path)
    embeddings = filled.embeddings(0)
    digests = []
    for part in filled.corpus.parts:
        spec = EmbeddingSpec(encoder_digest="encoder-0", precision="fp32")
        uids = fixed_binary_to_numpy(read_part(filled.store, part, ["uid"])["uid"])
        rows = embeddings[part.first_block_id : part.first_block_id + part.num_rows]
        write_embeddings(filled.store, spec, part, uids, rows)
        digests.append(spec.digest(part.digest))
    [plan] = plan_shards(filled.corpus.parts, digests, num_shards=1, spec=IndexSpec())
    built = build_shard(filled.store, plan, embeddings[:8], num_hits=10)
    settings = [SearchSetting(leaf_fraction=fraction) for fraction in (0.1, 0.5, 1.0)]
    measured = _measure(filled.store.url, built.entry, np.ascontiguousarray(embeddings[:8]), built.exact, settings, 2)
    assert [one.setting for one in measured] == settings
    assert len({one.seconds for one in measured}) == 1
