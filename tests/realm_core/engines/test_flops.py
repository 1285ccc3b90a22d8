import numpy as np
import pytest
from support.tiny_encoders import realm_config

from realm_core.engines.flops import embedder_flops


def test_one_layer_counts_keys_and_values_of_all_tokens_and_the_rest_of_cls():
    config = realm_config(hidden_size=2, num_attention_heads=1, num_hidden_layers=1, intermediate_size=8)
    # 5 tokens: keys and values 2 x 2x2 each, scores and context of one query 2 x 2 each; then for [CLS] query 2x2,
    # output 2x2, feed-forward 2 x 2x8, pooler 2x2, projection 2x8
    assert embedder_flops(config, np.array([5])) == 2 * (5 * 8 + 5 * 4 + 4 + 4 + 32 + 4 + 16)


def test_a_layer_more_counts_all_its_products():
    sizes = {"hidden_size": 2, "num_attention_heads": 1, "intermediate_size": 8}
    one, two = (embedder_flops(realm_config(num_hidden_layers=n, **sizes), np.array([5, 3])) for n in (1, 2))
    assert two - one == 2 * (8 * (4 * 4 + 2 * 16) + (25 + 9) * 2 * 2)


def test_rows_add_up():
    config = realm_config()
    whole = embedder_flops(config, np.array([5, 9, 30]))
    assert whole == pytest.approx(sum(embedder_flops(config, np.array([n])) for n in (5, 9, 30)))
    assert embedder_flops(config, np.array([], dtype=np.int64)) == 0


def test_a_bert_base_block_of_288_tokens_takes_some_48_billion():
    config = realm_config(hidden_size=768, num_attention_heads=12, num_hidden_layers=12, intermediate_size=3072)
    assert embedder_flops(config, np.array([288])) == pytest.approx(48.3e9, rel=0.02)
