from __future__ import annotations

import pytest
from golden.comparison import json_of
from golden.models import signature

import realm_core


@pytest.mark.parametrize("kind", json_of("signatures"))
def test_parity_of_arguments(kind):
    """What 4.40.2 takes comes first and in its order; what is ours follows."""
    published = json_of("signatures")[kind]
    assert signature(realm_core, kind)[: len(published)] == published
