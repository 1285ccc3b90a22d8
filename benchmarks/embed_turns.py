"""The sides of `benchmarks.embed` as processes that take turns."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.answering_process import AnsweringProcess
from benchmarks.embed_engines import PRECISIONS, why_not
from benchmarks.oracle import ORACLE_VERSION, ROOT, named_python, transformers_version
from benchmarks.side_by_side import environment
from realm_core.errors import RealmError

PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"


@dataclass(frozen=True, kw_only=True, slots=True)
class SideSpec:
    """A side that can be measured here."""

    side: str
    python: str
    every: int
    """Embeds every n-th block of a slice: what is slow is timed on fewer, for which its rate is the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sides:
    """What can be measured here, and why the others cannot."""

    present: list[SideSpec]
    left_out: dict[str, str]


def find_sides(device: str, *, slow_share: int) -> Sides:
    """All sides in the order of their turns. Those known to be slow embed every `slow_share`-th block."""
    present: list[SideSpec] = []
    left_out: dict[str, str] = {}

    def consider(side: str, python: str | None, reason: str | None, *, is_slow: bool = False) -> None:
        if python is None or reason is not None:
            left_out[side] = reason or "no environment for it: run `make peers`"
        else:
            present.append(SideSpec(side=side, python=python, every=slow_share if is_slow else 1))

    consider("transformers", _transformers_python(device), None, is_slow=True)
    consider("sentence-transformers", _sentence_transformers_python(device), None)
    consider("plain", sys.executable, None, is_slow=True)
    for precision in PRECISIONS:
        is_slow = precision == "bf16" and device == "cpu" and not _cpu_has_bf16_units()
        consider(f"ours-{precision}", sys.executable, why_not(precision, device), is_slow=is_slow)
    return Sides(present=present, left_out=left_out)


def _transformers_python(device: str) -> str | None:
    """On a GPU the peer's own environment, a CPU build, is of no use: transformers as installed stands in."""
    if device == "cuda":
        return sys.executable
    python = named_python()
    return str(python) if transformers_version(python) == ORACLE_VERSION else None


def _sentence_transformers_python(device: str) -> str | None:
    if device == "cuda":
        return sys.executable if importlib.util.find_spec("sentence_transformers") else None
    return str(PEERS_PYTHON) if PEERS_PYTHON.exists() else None


def _cpu_has_bf16_units() -> bool:
    from realm_core.engines.precision import cpu_has_bf16_units

    return cpu_has_bf16_units()


class SideProcess(AnsweringProcess):
    """A side under way."""

    def __init__(self, spec: SideSpec, folder: Path, device: str, num_threads: int) -> None:
        """Starts it and waits until its model is loaded and warm.

        Raises:
            RealmError: it died.
        """
        command = [spec.python, "-W", "ignore", "-m", "benchmarks.embed_sides", "--side", spec.side]
        command += ["--folder", str(folder), "--device", device, "--num-threads", str(num_threads)]
        super().__init__(spec.side, command, folder / f"{spec.side}.log", num_threads=num_threads)
        self.spec = spec
        self.name: str = self.first["name"]


def last_json_line(module: str, *arguments: str, num_threads: int) -> dict[str, Any]:
    """Runs another benchmark of this project, shows its output on standard error, and returns its last line.

    Raises:
        RealmError: it failed.
    """
    command = [sys.executable, "-W", "ignore", "-m", module, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(num_threads), stdout=subprocess.PIPE, text=True, check=False
    )
    *shown, last = done.stdout.rstrip().splitlines() or [""]
    print("\n".join(shown), flush=True)
    if done.returncode:
        raise RealmError(
            where=module,
            found=f"exit code {done.returncode}: {last or 'no output'}",
            expected="exit code 0",
            action=f"Run `python -m {module}` alone to see what it lacks.",
        )
    result: dict[str, Any] = json.loads(last)
    return result


def num_threads_or_all(num_threads: int | None) -> int:
    """The number of cores unless one is given."""
    return num_threads or os.cpu_count() or 1
