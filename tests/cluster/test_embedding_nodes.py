"""Nodes join and leave while a corpus is embedded."""

import json
import os
import secrets
import subprocess
import sys

import pytest
from support.snapshots import SyntheticStore
from support.stand_in_engines import StandInLoader

from realm_core.engines.part_embedder import PartEmbedder

pytestmark = pytest.mark.cluster


def test_a_node_that_joins_takes_parts_and_one_that_is_lost_gives_its_parts_back(tmp_path):
    options = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_raylet_start_wait_time_s": "300",
    }
    done = subprocess.run(
        [sys.executable, "-m", "support.embed_on_nodes", str(tmp_path)],
        env={**os.environ, **options, "PYTHONPATH": os.pathsep.join([".", "tests"])},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["num_ready"][0] <= 2
    assert max(facts["num_ready"]) == 4, "the second node's actors took part"
    assert facts["num_ready"][-1] <= 2
    assert max(facts["num_asked_for"]) == 4
    assert 2 <= facts["num_parts_at_loss"] < facts["num_parts"] - 4
    assert facts["num_retries"] >= 2
    assert facts["checks_passed"]
    assert_same_bytes_as_without_ray(tmp_path)


def assert_same_bytes_as_without_ray(folder):
    (folder / "undisturbed").mkdir()
    other = SyntheticStore(folder / "undisturbed", num_blocks=400, num_parts=40)
    worker = PartEmbedder(other.store, StandInLoader(), "fp32")
    names = [worker.embed(part, "e" * 64).embedding_digest for part in other.corpus.parts]
    for name in names:
        path = f"store/embeddings/{name}.parquet"
        assert (folder / path).read_bytes() == (folder / "undisturbed" / path).read_bytes()
