from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks import model_memory, model_speed
from benchmarks.model_cases import CASES, HEADLINE, OPEN_QA_BATCH
from benchmarks.oracle import ORACLE_VERSION, ROOT, named_python, transformers_version
from benchmarks.side_by_side import (
    Comparison,
    Measurement,
    Settings,
    chosen_cases,
    compare,
    geometric_mean,
    same_outputs,
)
from realm_core.errors import RealmError, UsageError

FORWARD, STEP = CASES[0], CASES[1]


def measurement(*seconds, peak_bytes=100, outputs=(0.5,)):
    return Measurement(seconds=seconds, constructed_bytes=1, peak_bytes=peak_bytes, outputs=outputs, versions="")


def comparison(case, ours, theirs):
    return Comparison(case=case, ours=ours, theirs=theirs)


def script(tmp_path, lines):
    file = tmp_path / "python"
    file.write_text("#!/bin/sh\n" + lines)
    file.chmod(0o755)
    return str(file)


def settings(python, **fields):
    defaults = {"num_threads": 1, "is_quick": True, "num_rounds": 1, "num_forward_runs": 1}
    return Settings(pythons={"theirs": python, "ours": python}, **(defaults | fields))


def test_a_worker_that_was_killed_is_named_with_its_exit_code(tmp_path):
    python = script(tmp_path, "kill -9 $$\n")
    with pytest.raises(RealmError, match=rf"embedder/forward, {ORACLE_VERSION}: .* exit code -9 \(SIGKILL\).*memory"):
        compare([FORWARD], settings(python))


def test_a_worker_that_failed_is_quoted(tmp_path):
    python = script(tmp_path, "echo RuntimeError: no such thing >&2; exit 3\n")
    with pytest.raises(RealmError, match="exit code 3: RuntimeError: no such thing;"):
        compare([FORWARD], settings(python))


def test_sides_alternate_and_all_their_runs_count(tmp_path, capfd):
    result = {
        "seconds": [2.0],
        "constructed_bytes": 1,
        "peak_bytes": 5,
        "outputs": [1.0],
        "transformers": "",
        "torch": "",
    }
    log = tmp_path / "log"
    python = script(tmp_path, f"echo \"$6\" >> {log}\necho noise\necho '{json.dumps(result)}'\n")
    (found,) = compare([STEP], settings(python, num_rounds=2))
    assert log.read_text().split() == ["theirs", "ours", "theirs", "ours"]
    assert found.ours.seconds == found.theirs.seconds == (2.0, 2.0)
    assert "[4/4] embedder/step, ours" in capfd.readouterr().err


def test_ratios_are_ours_by_theirs_of_medians():
    found = comparison(FORWARD, measurement(1, 2, 9, peak_bytes=30), measurement(8, 4, 1, peak_bytes=120))
    assert found.time_ratio == 0.5
    assert found.memory_ratio == 0.25


def test_outputs_have_to_agree():
    def agree(case, ours, theirs):
        return same_outputs(comparison(case, measurement(1, outputs=ours), measurement(1, outputs=theirs)))

    assert agree(FORWARD, (1.0, 100.0), (1.0005, 100.009))
    assert not agree(FORWARD, (1.0,), (1.01,))
    assert not agree(FORWARD, (1.0,), (1.0, 1.0))
    assert agree(STEP, (1.0,), (2.0,))  # dropout
    assert not agree(STEP, (float("nan"),), (2.0,))


def test_geometric_mean():
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert geometric_mean([]) is None


def test_cases_are_chosen_by_the_beginnings_of_their_names():
    assert [case.name for case in chosen_cases(["reader", "scorer/step"])] == [
        "scorer/step",
        "reader/forward",
        "reader/step",
    ]
    with pytest.raises(UsageError, match="--cases: raeder; expected beginnings of embedder/forward"):
        chosen_cases(["reader", "raeder"])


def test_last_lines():
    forward = comparison(FORWARD, measurement(1), measurement(4))
    other = comparison(CASES[2], measurement(1), measurement(1))
    batch = comparison(OPEN_QA_BATCH, measurement(1), measurement(100))
    headline = comparison(HEADLINE, measurement(1, peak_bytes=1), measurement(1, peak_bytes=3))
    speed = model_speed.summary([forward, other, batch])
    assert speed["forward_time_vs_hf"] == 0.5
    assert speed["step_time_vs_hf"] is None
    assert speed["time_ratios"]["open_qa_8_questions/forward"] == 0.01
    assert model_memory.summary([forward, headline])["step_peak_memory_vs_hf"] == 0.333
    assert model_memory.summary([forward])["step_peak_memory_vs_hf"] is None


def test_the_command_compares_both_environments():
    if transformers_version(named_python()) != ORACLE_VERSION:
        pytest.skip(f"no transformers {ORACLE_VERSION}: run `make oracle`")
    command = [sys.executable, "-m", "benchmarks.model_memory", "--quick", "--cases", "scorer/forward"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "THE RATIOS MEAN NOTHING" in done.stdout
    assert list(json.loads(done.stdout.splitlines()[-1])["peak_memory_ratios"]) == ["scorer/forward"]


def test_a_wrong_flag_ends_with_code_2():
    command = [sys.executable, "-m", "benchmarks.model_speed", "--repeats", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--repeats 0; expected 1 or more" in done.stderr
