"""BERT and REALM checkpoints small enough to make in a test, written by transformers itself."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertModel

from realm_core.modeling.configuration import RealmConfig

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "##s", "on", "a", "mat", ".", "paris", "e"]
VOCAB_SIZE = 40
CLS_ID, SEP_ID = 2, 3


def realm_config(**overrides):
    sizes = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "retriever_proj_size": 8,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
    }
    return RealmConfig(**{**sizes, **overrides})


def write_vocabulary(directory: Path) -> None:
    tokens = WORDS + [f"[unused{i}]" for i in range(VOCAB_SIZE - len(WORDS))]
    (directory / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")


def write_bert(directory: Path, kind=BertModel, **model_arguments) -> torch.nn.Module:
    """A BERT checkpoint with a vocab.txt; returns the model that was saved."""
    config = BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.3,
        hidden_act="gelu",
    )
    torch.manual_seed(7)
    model = kind(config, **model_arguments).eval()
    model.save_pretrained(directory)
    write_vocabulary(directory)
    return model


BERT_KINDS = [BertModel, BertForMaskedLM, BertForPreTraining]
