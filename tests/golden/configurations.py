"""The three configurations of the golden files: fields of RealmConfig, without dropout so that training is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

VOCABULARY = Path(__file__).with_name("vocab.txt")
VOCAB_SIZE = len(VOCABULARY.read_text(encoding="utf-8").splitlines())
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "tiny": {
        **_NO_DROPOUT,
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 24,
        "retriever_proj_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_candidates": 3,
        "intermediate_size": 40,
        "max_position_embeddings": 64,
        "span_hidden_size": 10,
        "max_span_width": 4,
        "reader_beam_size": 3,
        "reader_seq_len": 32,
        "num_block_records": 50,
        "searcher_beam_size": 8,
        "pad_token_id": 0,
    },
    "small": {
        **_NO_DROPOUT,
        "vocab_size": VOCAB_SIZE + 7,
        "hidden_size": 30,
        "retriever_proj_size": 9,
        "num_hidden_layers": 3,
        "num_attention_heads": 5,
        "num_candidates": 1,
        "intermediate_size": 52,
        "hidden_act": "gelu",
        "max_position_embeddings": 48,
        "type_vocab_size": 3,
        "layer_norm_eps": 1e-6,
        "span_hidden_size": 7,
        "max_span_width": 6,
        "reader_layer_norm_eps": 1e-2,
        "reader_beam_size": 2,
        "reader_seq_len": 24,
        "num_block_records": 50,
        "searcher_beam_size": 5,
    },
    "base": {**_NO_DROPOUT, "reader_seq_len": 40, "num_block_records": 50, "searcher_beam_size": 8},
}
"""`base` is RealmConfig() but for dropout and the three sizes that only retrieval reads."""

WEIGHT_STD = {"tiny": 0.25, "small": 0.25, "base": 0.04}
"""Large enough that no activation and no attention weight is near its linear or uniform limit."""

MAX_STORED_VALUES = {"tiny": 640, "small": 640, "base": 192}
"""Larger outputs are stored as this many evenly spaced values."""
