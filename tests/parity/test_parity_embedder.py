from __future__ import annotations

import pytest
from golden.comparison import assert_outputs, case_names
from golden.models import make_cases, run

import realm_core


@pytest.mark.parametrize(("name", "case"), case_names("embedder"))
def test_parity_of_outputs(models, name, case):
    cases = make_cases("embedder", name, realm_core)
    assert_outputs(run(models(realm_core, "embedder", name), cases[case]), name, "embedder", case)
