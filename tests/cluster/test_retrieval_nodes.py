"""A node dies while the service answers."""

import json
import os
import secrets
import subprocess
import sys

import pytest

pytestmark = pytest.mark.cluster


def test_a_node_that_is_lost_costs_no_search(tmp_path):
    options = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_raylet_start_wait_time_s": "300",
    }
    done = subprocess.run(
        [sys.executable, "-m", "support.serve_on_nodes", str(tmp_path)],
        env={**os.environ, **options, "PYTHONPATH": os.pathsep.join([".", "tests"])},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["num_processes"] == 7
    assert facts["num_lost"] >= 2
    assert facts["failures"] == []
    assert facts["num_right"] >= 20
    assert facts["recovered"]
    assert facts["went_on"]
