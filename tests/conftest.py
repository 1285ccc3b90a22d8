"""One Ray cluster for all tests, and small corpora, encoders and snapshots to run on."""

from __future__ import annotations

import pytest

from support.snapshots import SyntheticStore


@pytest.fixture(scope="session")
def ray_cluster():
    """Started once; who started it stops it."""
    from cluster.session import ray_session

    with ray_session():
        yield


@pytest.fixture
def synthetic_store(tmp_path):
    """A store with a corpus of 400 blocks; `publish(seed, step)` adds a snapshot of random embeddings."""
    return SyntheticStore(tmp_path)
