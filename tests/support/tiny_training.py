"""A model and batches of pre-training and of the warm-up, of the smallest sizes that have every part."""

from __future__ import annotations

import torch

from realm_core.modeling.configuration import RealmConfig
from realm_core.modeling.embedder import RealmEmbedder
from realm_core.modeling.knowledge_aug_encoder import RealmKnowledgeAugEncoder
from realm_core.training.featurization import (
    NULL_DOCUMENT,
    CandidateBlock,
    FeaturizerConfig,
    SpecialTokens,
    pretrain_batch,
)
from realm_core.training.inverse_cloze import InverseClozeExample, inverse_cloze_batch
from realm_core.training.masking import MaskedQuery
from realm_core.training.models import InverseClozeModel, RealmPretrainModel, set_dropout, to_tensors

SPECIAL = SpecialTokens(cls_id=1, sep_id=2, mask_id=3, pad_id=0)
FEATURES = FeaturizerConfig(query_length_tokens=64, block_length_tokens=128, num_candidates=3)


def tiny_config():
    return RealmConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        retriever_proj_size=8,
        max_position_embeddings=192,
        initializer_range=0.2,
    )


def pretrain_model(dropout=0.0):
    torch.manual_seed(0)
    model = RealmPretrainModel(RealmEmbedder(tiny_config()), RealmKnowledgeAugEncoder(tiny_config())).train()
    set_dropout(model, dropout)
    return model


def inverse_cloze_model(dropout=0.0):
    torch.manual_seed(0)
    model = InverseClozeModel(RealmEmbedder(tiny_config())).train()
    set_dropout(model, dropout)
    return model


def pretrain_tensors(num_queries=6):
    """Query i has i % 4 + 1 masked tokens, and texts of very different lengths."""
    queries, candidates = [], []
    for i in range(num_queries):
        num_masks, length = i % 4 + 1, 6 + 7 * i
        masked = tuple(range(1, 1 + num_masks))
        tokens = tuple(3 if p in masked else 5 + (i + p) % 50 for p in range(length))
        queries.append(MaskedQuery(tokens, masked, tuple(10 + i + p for p in masked)))
        body = tuple(5 + (3 * i + p) % 50 for p in range(4 + 15 * i))
        candidates.append([NULL_DOCUMENT, CandidateBlock(i, (30,), body), CandidateBlock(i + 9, (31, 32), body[:4])])
    return to_tensors(pretrain_batch(queries, candidates, config=FEATURES, special=SPECIAL), "cpu")


def inverse_cloze_tensors(num_queries=6, first=0):
    examples = [
        InverseClozeExample(
            query_token_ids=tuple(5 + (i * 3 + p) % 50 for p in range(3 + i)),
            title_token_ids=(30 + i % 20,),
            body_token_ids=tuple(5 + (i * 5 + p) % 50 for p in range(4 + 9 * (i % 7))),
            is_removed=i % 3 > 0,
        )
        for i in range(first, first + num_queries)
    ]
    return to_tensors(inverse_cloze_batch(examples, config=FEATURES, special=SPECIAL), "cpu")


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_same_gradients(actual, expected):
    """To fp32 rounding: 1e-5 of each tensor's largest gradient, and 1e-6 where a gradient is all but zero."""
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        allowed = max(1e-6, 1e-5 * float(gradient.abs().max()))
        assert float((actual[name] - gradient).abs().max()) <= allowed, name
