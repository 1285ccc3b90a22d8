"""One Ray cluster for all tests, and small corpora, encoders and snapshots to run on."""

from __future__ import annotations

import pytest
from support.snapshots import SyntheticStore
from support.tiny import write_bert, write_corpus


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


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory):
    """JSON lines of 24 short documents."""
    return write_corpus(tmp_path_factory.mktemp("corpus") / "documents.jsonl")


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    """A BERT checkpoint of 2 layers that knows the corpus's words."""
    return write_bert(tmp_path_factory.mktemp("bert") / "tiny")
