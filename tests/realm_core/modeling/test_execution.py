"""The ways a model can be run give the results of plain fp32, within the tolerances that docs/models.md states."""

from __future__ import annotations

import pytest
import torch
from support.tiny_encoders import realm_config, write_vocabulary
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from realm_core.modeling import (
    RealmBertModel,
    RealmConfig,
    RealmEmbedder,
    RealmKnowledgeAugEncoder,
    RealmReader,
    RealmScorer,
    RealmTokenizer,
)

FP32 = {"rtol": 1e-4, "atol": 1e-5}
BF16_COSINE = 0.999


def embedder(**overrides):
    torch.manual_seed(0)
    return RealmEmbedder(realm_config(**overrides)).eval()


def inputs(num_rows=6, width=20):
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(3, width + 1, (num_rows, 1), generator=generator)
    mask = (torch.arange(width) < lengths).long()
    ids = torch.randint(5, 40, mask.shape, generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": mask * (torch.arange(width) > 5)}


def full_width(num_rows=6, width=20):
    return {**inputs(num_rows, width), "attention_mask": torch.ones(num_rows, width, dtype=torch.long)}


@pytest.mark.parametrize("batch", [inputs(), full_width()], ids=["packed", "padded"])
def test_bf16_autocast_keeps_the_direction_of_an_embedding(batch):
    model = embedder(initializer_range=0.05)
    expected = model(**batch).projected_score
    with torch.autocast("cpu", torch.bfloat16):
        actual = model(**batch).projected_score
    assert torch.nn.functional.cosine_similarity(actual.float(), expected, dim=-1).min() >= BF16_COSINE


@pytest.mark.parametrize("batch", [inputs(), full_width()], ids=["packed", "padded"])
def test_bf16_autocast_trains_with_dropout(batch):
    model = embedder(attention_probs_dropout_prob=0.1, hidden_dropout_prob=0.1).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch).projected_score.float().square().mean()
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_a_compiled_embedder_gives_the_same_embeddings():
    model = embedder()
    expected = model(**inputs()).projected_score
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(**inputs()).projected_score, expected, **FP32)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo's own look at a loss
def test_a_compiled_encoder_trains_to_the_same_gradients():
    torch.manual_seed(0)
    config = realm_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = RealmKnowledgeAugEncoder(config).train()
    batch = {name: tensor.view(2, 3, 20) for name, tensor in inputs().items()}
    labels = torch.full((2, 20), -100)
    labels[:, 1:3] = 9
    arguments = {**batch, "labels": labels, "relevance_score": torch.randn(2, 3)}
    losses, gradients = [], []
    for run in (model, torch.compile(model, backend="aot_eager")):
        model.zero_grad()
        losses.append(run(**arguments).loss)
        losses[-1].backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(losses[1], losses[0], **FP32)
    for actual, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected, **FP32)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_implementations_agree_and_are_chosen_as_in_transformers(tmp_path, implementation):
    expected = embedder()
    expected.save_pretrained(tmp_path)
    model = RealmEmbedder.from_pretrained(tmp_path, attn_implementation=implementation)
    assert model.config._attn_implementation == implementation
    for batch in (inputs(), full_width()):
        torch.testing.assert_close(model(**batch).projected_score, expected(**batch).projected_score, **FP32)
        states = [m(**batch, output_hidden_states=True).hidden_states[-1] for m in (model, expected)]
        torch.testing.assert_close(*states, **FP32)


def test_an_implementation_of_transformers_gets_its_masks_and_all_rows(monkeypatch):
    expected = embedder()
    calls = []

    def recorded(*args, **kwargs):
        calls.append(kwargs)
        return ALL_ATTENTION_FUNCTIONS["sdpa"](*args, **kwargs)

    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register("recorded", recorded)
    AttentionMaskInterface.register("recorded", sdpa_mask)
    try:
        model = embedder()
        model.set_attn_implementation("recorded")
        batch = full_width()
        batch["attention_mask"][0, 15:] = 0  # little padding: it stays
        torch.testing.assert_close(model(**batch).projected_score, expected(**batch).projected_score, **FP32)
        assert len(calls) == model.config.num_hidden_layers
        assert all(call["dropout"] == 0.0 for call in calls)
    finally:
        ALL_ATTENTION_FUNCTIONS._global_mapping.pop("recorded", None)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
# transformers 5 keeps the old name, with a warning
def test_gradient_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    model = RealmScorer(realm_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).train()
    candidates = {f"candidate_{name}": tensor for name, tensor in inputs(6).items()}
    gradients = []
    for checkpointing in (False, True):
        model.gradient_checkpointing_enable() if checkpointing else None
        model.zero_grad()
        model(**inputs(2), **candidates).relevance_score.sum().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert model.is_activation_checkpointing
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, **FP32)


def test_the_auto_classes_know_realm(tmp_path):
    model = embedder()
    model.save_pretrained(tmp_path)
    write_vocabulary(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), RealmConfig)
    assert isinstance(AutoTokenizer.from_pretrained(tmp_path), RealmTokenizer)
    base = AutoModel.from_pretrained(tmp_path)
    assert isinstance(base, RealmBertModel)
    states = base(**inputs()).last_hidden_state
    torch.testing.assert_close(states, model.realm(**inputs()).last_hidden_state, **FP32)


@pytest.mark.parametrize("kind", [RealmEmbedder, RealmScorer, RealmKnowledgeAugEncoder, RealmReader])
def test_a_saved_model_is_loaded_without_a_missing_or_unexpected_tensor(tmp_path, kind):
    torch.manual_seed(0)
    model = kind(realm_config())
    model.save_pretrained(tmp_path)
    loaded, info = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == [name for name, parameter in loaded.named_parameters() if not parameter.requires_grad]
