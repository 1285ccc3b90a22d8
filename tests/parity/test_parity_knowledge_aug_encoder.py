from __future__ import annotations

from dataclasses import replace

import pytest
from golden.comparison import assert_gradients, assert_output, assert_outputs, case_names
from golden.configurations import CONFIGURATIONS
from golden.models import gradients, make_cases, run

import realm_core

KIND = "knowledge_aug_encoder"
LOSS_CASES = [(name, case) for name, case in case_names(KIND) if case.startswith("loss")]
WITH_STATES = "loss, everything"


@pytest.mark.parametrize(("name", "case"), case_names(KIND))
def test_parity_of_outputs(models, name, case):
    outputs = run(models(realm_core, KIND, name), make_cases(KIND, name, realm_core)[case])
    assert_outputs(outputs, name, KIND, case)


@pytest.mark.parametrize(("name", "case"), LOSS_CASES)
def test_parity_of_the_loss_in_training(models, name, case):
    """Without logits, unless states are asked for too."""
    training = replace(make_cases(KIND, name, realm_core)[case], training=True)
    outputs = run(models(realm_core, KIND, name), training)
    assert ("logits" in outputs) == (case == WITH_STATES)
    assert_output(outputs, name, KIND, case, "loss")


@pytest.mark.parametrize(("name", "case"), LOSS_CASES)
def test_parity_of_the_logits_in_training_on_request(models, name, case):
    training = replace(make_cases(KIND, name, realm_core)[case], training=True)
    assert_outputs(run(models(realm_core, KIND, name), training, output_logits=True), name, KIND, case)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_parity_of_gradients(models, name):
    loss, found = gradients(realm_core, "masked_language_model", name, models)
    assert_gradients(loss, found, name, "masked_language_model")
