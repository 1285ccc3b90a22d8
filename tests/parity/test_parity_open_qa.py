from __future__ import annotations

import pytest
from golden.comparison import assert_gradients, assert_outputs, case_names
from golden.configurations import CONFIGURATIONS
from golden.models import gradients, make_cases, run

import realm_core


@pytest.mark.parametrize(("name", "case"), case_names("open_qa"))
def test_parity_of_outputs(models, name, case):
    outputs = run(models(realm_core, "open_qa", name), make_cases("open_qa", name, realm_core)[case])
    assert_outputs(outputs, name, "open_qa", case)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_parity_of_gradients(models, name):
    loss, found = gradients(realm_core, "open_qa", name, models)
    assert_gradients(loss, found, name, "open_qa")
