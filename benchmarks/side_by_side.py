"""Runs cases on both sides, each in a fresh process and in turn, and compares what they cost.

The sides alternate (theirs, ours, theirs, ours), so that a busy machine costs both; never do two workers run at once.
"""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from benchmarks.model_cases import CASES, Case, Mode
from benchmarks.oracle import ORACLE_VERSION, ROOT
from realm_core.errors import RealmError, UsageError

Side = Literal["theirs", "ours"]
SIDES: tuple[Side, Side] = ("theirs", "ours")
TITLES: dict[Side, str] = {"theirs": ORACLE_VERSION, "ours": "ours"}

RELATIVE_TOLERANCE = 1e-4
ABSOLUTE_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One side of one case, over all its processes."""

    seconds: tuple[float, ...]
    """Of each run."""
    constructed_bytes: int
    """Resident once the model is made."""
    peak_bytes: int
    """The most that any of the processes ever had resident."""
    outputs: tuple[float, ...]
    versions: str

    @property
    def median_seconds(self) -> float:
        """Of one run."""
        return statistics.median(self.seconds)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Both sides of one case."""

    case: Case
    ours: Measurement
    theirs: Measurement

    @property
    def time_ratio(self) -> float:
        """Ours / theirs."""
        return self.ours.median_seconds / self.theirs.median_seconds

    @property
    def memory_ratio(self) -> float:
        """Ours / theirs."""
        return self.ours.peak_bytes / self.theirs.peak_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How the workers are run."""

    pythons: dict[Side, str]
    num_threads: int
    is_quick: bool
    num_rounds: int
    """Processes per side and case."""
    num_forward_runs: int
    """Runs of a forward pass in each process; a step, which is long, runs once."""


def chosen_cases(names: Sequence[str]) -> list[Case]:
    """The cases whose names begin with one of `names`. Raises `UsageError` for a name that begins none."""
    unknown = [name for name in names if not any(case.name.startswith(name) for case in CASES)]
    if unknown:
        raise UsageError(
            where="--cases",
            found=", ".join(unknown),
            expected="beginnings of " + ", ".join(case.name for case in CASES),
            action="Correct the name.",
        )
    return [case for case in CASES if case.name.startswith(tuple(names))]


def compare(cases: Sequence[Case], settings: Settings) -> list[Comparison]:
    """Measures each case on both sides.

    Raises:
        RealmError: a worker died, or the two sides gave different outputs.
    """
    progress = _Progress(len(cases) * settings.num_rounds * len(SIDES))
    return [_compare_case(case, settings, progress) for case in cases]


def geometric_mean(ratios: Iterable[float]) -> float | None:
    """None of nothing."""
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logs) / len(logs)) if logs else None


def comparisons_of(comparisons: Iterable[Comparison], mode: Mode) -> list[Comparison]:
    """Those that enter the mean of this mode."""
    return [comparison for comparison in comparisons if comparison.case.mode == mode and comparison.case.enters_means]


def _compare_case(case: Case, settings: Settings, progress: _Progress) -> Comparison:
    found: dict[Side, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(settings.num_rounds):
        for side in SIDES:
            progress.begins(case, side)
            found[side].append(_run_worker(case, side, settings))
            progress.ends(found[side][-1])
    comparison = Comparison(case=case, ours=_merged(found["ours"]), theirs=_merged(found["theirs"]))
    _check_same_outputs(comparison)
    return comparison


def _merged(results: list[dict[str, Any]]) -> Measurement:
    first = results[0]
    return Measurement(
        seconds=tuple(seconds for result in results for seconds in result["seconds"]),
        constructed_bytes=max(result["constructed_bytes"] for result in results),
        peak_bytes=max(result["peak_bytes"] for result in results),
        outputs=tuple(first["outputs"]),
        versions=f"transformers {first['transformers']}, torch {first['torch']}",
    )


def same_outputs(comparison: Comparison) -> bool:
    """Whether forward passes agree; steps differ by dropout, and only have to be finite."""
    ours, theirs = np.array(comparison.ours.outputs), np.array(comparison.theirs.outputs)
    if comparison.case.mode == "step":
        return bool(np.isfinite(ours).all() and np.isfinite(theirs).all())
    return ours.shape == theirs.shape and np.allclose(ours, theirs, RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE)


def _check_same_outputs(comparison: Comparison) -> None:
    if not same_outputs(comparison):
        raise RealmError(
            where=comparison.case.name,
            found=f"ours {comparison.ours.outputs[:4]}, theirs {comparison.theirs.outputs[:4]}",
            expected="the same outputs for the same weights and inputs",
            action="Repair the model first: a comparison of different computations says nothing.",
        )


def _run_worker(case: Case, side: Side, settings: Settings) -> dict[str, Any]:
    num_runs = settings.num_forward_runs if case.mode == "forward" and case.enters_means else 1
    command = [settings.pythons[side], "-W", "ignore", "-m", "benchmarks.model_worker", "--side", side]
    command += ["--case", case.name, "--num-runs", str(num_runs), "--num-threads", str(settings.num_threads)]
    command += ["--quick"] if settings.is_quick else []
    done = subprocess.run(
        command, cwd=ROOT, env=environment(settings.num_threads), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise _dead_worker(case, side, done)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def environment(num_threads: int) -> dict[str, str]:
    """Of a worker: so many threads everywhere, and nothing from the network."""
    threads = {name: str(num_threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
    return os.environ | threads | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


def _dead_worker(case: Case, side: Side, done: subprocess.CompletedProcess[str]) -> RealmError:
    code = done.returncode
    killed = f" ({signal.Signals(-code).name})" if code < 0 else ""
    last_words = "".join(done.stderr.strip().splitlines()[-1:]) or "nothing on standard error"
    memory = " It was killed, most likely for want of memory." if code in (-signal.SIGKILL, 137) else ""
    return RealmError(
        where=f"{case.name}, {TITLES[side]}",
        found=f"a worker that ended with exit code {code}{killed}: {last_words}",
        expected="exit code 0",
        action=f"Rerun this case alone with `--cases {case.name}`.{memory}",
    )


class _Progress:
    """A line per process on standard error: what runs, what it cost, how long the rest may take."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._start = total, 0, time.monotonic()

    def begins(self, case: Case, side: Side) -> None:
        self._say(f"[{self._done + 1}/{self._total}] {case.name}, {TITLES[side]} … ")

    def ends(self, result: dict[str, Any]) -> None:
        self._done += 1
        elapsed = time.monotonic() - self._start
        left = elapsed / self._done * (self._total - self._done)
        seconds, gigabytes = statistics.median(result["seconds"]), result["peak_bytes"] / 1e9
        self._say(f"{seconds:.3g} s, {gigabytes:.2f} GB; {elapsed:.0f} s gone, about {left:.0f} s left\n")

    def _say(self, text: str) -> None:
        print(text, end="", file=sys.stderr, flush=True)
