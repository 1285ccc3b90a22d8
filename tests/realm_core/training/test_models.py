import copy

import numpy as np
import pytest
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
from realm_core.training.models import InverseClozeModel, RealmPretrainModel, relevances, set_dropout, to_tensors

CONFIG = RealmConfig(
    vocab_size=60,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    retriever_proj_size=8,
    max_position_embeddings=64,
)
SPECIAL = SpecialTokens(cls_id=1, sep_id=2, mask_id=3, pad_id=0)
FEATURES = FeaturizerConfig(query_length_tokens=16, block_length_tokens=32, num_candidates=3)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return RealmPretrainModel(RealmEmbedder(CONFIG), RealmKnowledgeAugEncoder(CONFIG)).train()


def batch(lengths=(6, 9)):
    queries = [MaskedQuery((10, 3, 3, 13), (1, 2), (11, 12)), MaskedQuery((20, 21, 3), (2,), (22,))]
    blocks = [CandidateBlock(i, (30 + i,), tuple(range(40, 40 + n))) for i, n in enumerate(lengths)]
    arrays = pretrain_batch(queries, [[NULL_DOCUMENT, *blocks]] * 2, config=FEATURES, special=SPECIAL)
    return to_tensors(arrays, "cpu")


def test_the_gradient_of_the_loss_reaches_retriever_and_encoder(model):
    set_dropout(model, 0.0)
    loss, _, num_masked = model(batch())
    assert num_masked == 3
    loss.backward()
    for name in ("embedder.cls.dense.weight", "encoder.cls.predictions.transform.dense.weight"):
        assert dict(model.named_parameters())[name].grad.abs().sum() > 0
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []


def test_close_candidates_are_told_apart_where_training_runs_in_bf16():
    query_BD = torch.full((1, 128), 0.8, requires_grad=True)
    block_BND = torch.full((1, 3, 128), 0.8) + torch.tensor([0.0, 1e-3, 2e-3])[:, None]
    with torch.autocast("cpu", torch.bfloat16):
        relevance_BN = relevances(query_BD, block_BND)
    assert relevance_BN.dtype == torch.float32
    torch.testing.assert_close(relevance_BN, torch.tensor([[81.92, 82.0224, 82.1248]]), rtol=1e-5, atol=0)
    relevance_BN.sum().backward()
    torch.testing.assert_close(query_BD.grad, block_BND.sum(1))


def test_a_query_embedder_of_its_own_takes_the_queries_part_of_the_gradient(model):
    set_dropout(model, 0.0)
    model(batch())[0].backward()
    apart = copy.deepcopy(model)
    apart.query_embedder = copy.deepcopy(model.embedder)
    apart.zero_grad()
    loss = apart(batch())[0]
    assert torch.equal(loss, model(batch())[0])
    loss.backward()
    for name, shared in model.embedder.named_parameters():
        if shared.grad is not None:
            parts = [dict(e.named_parameters())[name].grad for e in (apart.embedder, apart.query_embedder)]
            torch.testing.assert_close(sum(parts), shared.grad, msg=name)
            assert all(part.abs().sum() > 0 for part in parts) or "bias" in name, name


def test_padding_changes_nothing(model):
    model.eval()
    with torch.no_grad():
        loss = model(batch())[0]
        padded = batch()
        for name in ("candidate", "joint"):
            is_padding = ~padded[f"{name}_is_token_BNL"]
            assert is_padding.any()
            padded[f"{name}_ids_BNL"][is_padding] = 59
        assert torch.equal(model(padded)[0], loss)


def test_without_dropout_training_mode_is_evaluation_mode(model):
    set_dropout(model, 0.0)
    with torch.no_grad():
        torch.testing.assert_close(model.train()(batch())[0], model.eval()(batch())[0])


def test_inverse_cloze_projects_queries_and_blocks():
    torch.manual_seed(0)
    embedder = RealmEmbedder(CONFIG).eval()
    examples = [
        InverseClozeExample((10, 11), (30,), (40, 41, 42), True),
        InverseClozeExample((12,), (31,), (43,), False),
    ]
    arrays = inverse_cloze_batch(examples, config=FEATURES, special=SPECIAL)
    query_BD, block_BD = InverseClozeModel(embedder)(to_tensors(arrays, "cpu"))
    assert query_BD.shape == block_BD.shape == (2, 8)
    alone = inverse_cloze_batch(examples[1:], config=FEATURES, special=SPECIAL)
    _, block_alone_BD = InverseClozeModel(embedder)(to_tensors(alone, "cpu"))
    torch.testing.assert_close(block_alone_BD[0], block_BD[1])


def test_read_only_arrays_are_copied():
    arrays = pretrain_batch(
        [MaskedQuery((10, 3), (1,), (11,))], [[NULL_DOCUMENT] * 3], config=FEATURES, special=SPECIAL
    )
    for name in arrays.__dataclass_fields__:
        getattr(arrays, name).setflags(write=False)
    tensors = to_tensors(arrays, "cpu")
    assert tensors["is_masked_BM"].dtype == torch.bool
    assert tensors["query_ids_BL"].dtype == torch.int64
    np.testing.assert_array_equal(tensors["target_ids_BM"].numpy(), arrays.target_ids_BM)
