from __future__ import annotations

import pytest

from realm_core.modeling.configuration import RealmConfig

DEFAULTS_OF_TRANSFORMERS_4 = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "retriever_proj_size": 128,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_candidates": 8,
    "intermediate_size": 3072,
    "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "span_hidden_size": 256,
    "max_span_width": 10,
    "reader_layer_norm_eps": 1e-3,
    "reader_beam_size": 5,
    "reader_seq_len": 320,
    "num_block_records": 13353718,
    "searcher_beam_size": 5000,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}


def test_fields_and_defaults_are_those_of_transformers_4():
    config = RealmConfig()
    assert {name: getattr(config, name) for name in DEFAULTS_OF_TRANSFORMERS_4} == DEFAULTS_OF_TRANSFORMERS_4
    assert config.model_type == "realm"


def test_a_published_configuration_loads_with_fields_of_old_versions(tmp_path):
    published = (
        '{"architectures": ["RealmEmbedder"], "model_type": "realm", "hidden_size": 32, "num_attention_heads": 4,'
        ' "transformers_version": "4.16.0", "torch_dtype": "float32", "concat_embeddings_size": 1}'
    )
    (tmp_path / "config.json").write_text(published)
    config = RealmConfig.from_pretrained(tmp_path)
    assert (config.hidden_size, config.num_attention_heads, config.retriever_proj_size) == (32, 4, 128)


def test_the_round_trip_keeps_every_field(tmp_path):
    config = RealmConfig(hidden_size=32, num_attention_heads=4, reader_seq_len=99)
    config.save_pretrained(tmp_path)
    assert RealmConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"hidden_size": 100, "num_attention_heads": 3}, "no multiple of 3 heads"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(fields, problem):
    with pytest.raises(ValueError, match=problem):
        RealmConfig(**fields)
