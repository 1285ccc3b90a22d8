"""Our models with the frozen weights; the last two are kept, because those of 768 take seconds to fill."""

from __future__ import annotations

from functools import lru_cache

import pytest
from golden.models import make_model

pytest.register_assert_rewrite("golden.comparison")


@pytest.fixture(scope="session")
def models():
    """Called with library, kind and configuration, as `golden.models.make_model`."""
    return lru_cache(maxsize=2)(make_model)
