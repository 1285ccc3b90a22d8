from __future__ import annotations

import pytest
from golden.comparison import assert_outputs, case_names
from golden.models import make_cases, run

import realm_core


@pytest.mark.parametrize(("name", "case"), case_names("scorer"))
def test_parity_of_outputs(models, name, case):
    cases = make_cases("scorer", name, realm_core)
    assert_outputs(run(models(realm_core, "scorer", name), cases[case]), name, "scorer", case)


@pytest.mark.parametrize(("name", "case"), case_names("two_embedder_scorer"))
def test_parity_of_outputs_with_an_embedder_for_queries(models, name, case):
    cases = make_cases("two_embedder_scorer", name, realm_core)
    outputs = run(models(realm_core, "two_embedder_scorer", name), cases[case])
    assert_outputs(outputs, name, "two_embedder_scorer", case)
