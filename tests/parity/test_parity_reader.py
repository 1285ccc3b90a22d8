from __future__ import annotations

import pytest
from golden.comparison import assert_gradients, assert_outputs, case_names
from golden.configurations import CONFIGURATIONS
from golden.models import gradients, make_cases, run

import realm_core


@pytest.mark.parametrize(("name", "case"), case_names("reader"))
def test_parity_of_outputs(models, name, case):
    outputs = run(models(realm_core, "reader", name), make_cases("reader", name, realm_core)[case])
    assert_outputs(outputs, name, "reader", case)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_parity_of_gradients(models, name):
    loss, found = gradients(realm_core, "reader", name, models)
    assert_gradients(loss, found, name, "reader")
