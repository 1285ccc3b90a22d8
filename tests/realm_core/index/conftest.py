"""Embeddings as an embedder gives them: clustered, of about equal norm."""

from __future__ import annotations

import numpy as np
import pytest

DIMENSION = 32


@pytest.fixture(scope="session")
def embeddings() -> np.ndarray:
    """3,000 read-only rows in 100 clusters, each row's norm sqrt(32) as after a LayerNorm."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((100, DIMENSION))
    rows = centers[rng.integers(0, len(centers), 3_000)] + 0.6 * rng.standard_normal((3_000, DIMENSION))
    rows = (rows - rows.mean(axis=1, keepdims=True)) / rows.std(axis=1, keepdims=True)
    rows = rows.astype(np.float32)
    rows.setflags(write=False)
    return rows


@pytest.fixture(scope="session")
def queries(embeddings: np.ndarray) -> np.ndarray:
    """100 read-only queries near rows."""
    rng = np.random.default_rng(1)
    rows = embeddings[rng.integers(0, len(embeddings), 100)]
    near = (rows + 0.5 * rng.standard_normal(rows.shape)).astype(np.float32)
    near.setflags(write=False)
    return near
