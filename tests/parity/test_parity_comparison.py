"""The parity tests can fail: small changes of a model are noticed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from golden.comparison import assert_gradients, assert_outputs, assert_within
from golden.configurations import CONFIGURATIONS
from golden.models import gradients, make_cases, make_model, run

import realm_core

CHANGED_WEIGHTS = {
    "realm.embeddings.position_embeddings.weight": 1e-3,
    "realm.encoder.layer.1.attention.self.value.bias": 1e-3,
    "realm.pooler.dense.weight": 1e-3,
    "cls.LayerNorm.bias": 1e-3,
}


@pytest.mark.parametrize(("parameter", "change"), CHANGED_WEIGHTS.items())
def test_parity_notices_a_changed_weight(parameter, change):
    model = make_model(realm_core, "embedder", "tiny")
    with torch.no_grad():
        model.get_parameter(parameter).mul_(1 + change)
    outputs = run(model, make_cases("embedder", "tiny", realm_core)["padded"])
    with pytest.raises(AssertionError, match="projected_score"):
        assert_outputs(outputs, "tiny", "embedder", "padded")


@pytest.mark.parametrize(
    ("field", "value"), [("hidden_act", "gelu"), ("layer_norm_eps", 1e-3), ("num_attention_heads", 2)]
)
def test_parity_notices_another_configuration(monkeypatch, field, value):
    monkeypatch.setitem(CONFIGURATIONS["tiny"], field, value)
    outputs = run(make_model(realm_core, "embedder", "tiny"), make_cases("embedder", "tiny", realm_core)["padded"])
    with pytest.raises(AssertionError, match="projected_score"):
        assert_outputs(outputs, "tiny", "embedder", "padded")


def test_parity_notices_another_mask_and_another_order():
    model, cases = make_model(realm_core, "embedder", "tiny"), make_cases("embedder", "tiny", realm_core)
    unmasked = {name: value for name, value in cases["padded"].inputs.items() if name != "attention_mask"}
    with pytest.raises(AssertionError, match="projected_score"):
        assert_outputs(run(model, dataclasses.replace(cases["padded"], inputs=unmasked)), "tiny", "embedder", "padded")
    outputs = run(model, cases["everything"])
    with pytest.raises(AssertionError):
        assert_outputs(dict(reversed(outputs.items())), "tiny", "embedder", "everything")


def test_parity_notices_a_gradient_that_is_scaled_or_missing_or_turned_around():
    loss, found = gradients(realm_core, "masked_language_model", "tiny")
    parameter = "encoder.realm.encoder.layer.0.output.dense.weight"
    turned = np.where(np.arange(found[parameter].size) == 0, 1, -1) * found[parameter]
    for changed in (found[parameter] * 1.0003, np.full_like(found[parameter], np.nan), turned):
        with pytest.raises(AssertionError):
            assert_gradients(loss, found | {parameter: changed}, "tiny", "masked_language_model")
    with pytest.raises(AssertionError, match="tiny, masked_language_model at"):
        assert_gradients(loss * 1.0001, found, "tiny", "masked_language_model")


def test_parity_allows_the_larger_of_both_tolerances():
    expected = np.array([1.0, 100.0, 0.0])
    assert_within(np.array([1.0005, 100.09, -0.001]), expected, 1e-3, 1e-3, "numbers")
    for place, value in enumerate([1.0011, 100.11, 0.0011]):
        actual = expected.copy()
        actual[place] = value
        with pytest.raises(AssertionError, match=rf"numbers at \[{place}\]: .* 1 of 3 values"):
            assert_within(actual, expected, 1e-3, 1e-3, "numbers")


def test_parity_refuses_what_is_no_number():
    with pytest.raises(AssertionError):
        assert_within(np.array([np.nan, 1.0]), np.array([1.0, 1.0]), 1e-3, 1e-3, "numbers")
