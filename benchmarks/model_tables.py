"""What the model benchmarks share with their readers: flags, the table, the last line."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.command import or_exit
from benchmarks.model_cases import CASES, Case
from benchmarks.oracle import ORACLE_VERSION, oracle_python
from benchmarks.side_by_side import Comparison, Settings, chosen_cases, compare
from realm_core.errors import UsageError

TABLE_WIDTH = 118
QUICK_WARNING = "--quick: tiny models and inputs, to see that everything runs. THE RATIOS MEAN NOTHING."


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkConfig:
    """Compare this project's REALM classes with those of transformers 4.40.2, in turn, in fresh processes."""

    cases: tuple[str, ...] = ()
    """Beginnings of case names, such as `scorer` or `reader/step`; by default every class and mode."""
    repeats: int | None = None
    """Processes per side and case; the median of their runs counts. By default 2 for time, 1 for memory."""
    threads: int | None = None
    """Threads of torch on both sides; the number of cores by default."""
    quick: bool = False
    """Tiny models and inputs, to see that everything runs: the ratios then mean nothing."""

    def __post_init__(self) -> None:
        counts = {"--repeats": self.repeats, "--threads": self.threads}
        problems = [f"{name} {value}" for name, value in counts.items() if value is not None and value < 1]
        if problems:
            raise UsageError(
                where="benchmark", found=", ".join(problems), expected="1 or more", action="Correct these options."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a benchmark runs unless flags say otherwise."""

    program: str
    description: str | None
    left_out: Case
    """Run only if `--cases` names it."""
    num_rounds: int
    """Processes per side and case."""
    num_forward_runs: int
    """Runs of a forward pass in each process."""


def run_benchmark(plan: Plan) -> list[Comparison]:
    """Reads the flags, compares the chosen cases, prints the table. Ends the process with an error's own exit code."""
    command = f"python -m {plan.program}"
    return or_exit(lambda: _run(tyro.cli(BenchmarkConfig, prog=command, description=plan.description), plan))


def _run(config: BenchmarkConfig, plan: Plan) -> list[Comparison]:
    cases = chosen_cases(config.cases) if config.cases else [case for case in CASES if case != plan.left_out]
    settings = Settings(
        pythons={"ours": sys.executable, "theirs": oracle_python()},
        num_threads=config.threads or os.cpu_count() or 1,
        is_quick=config.quick,
        num_rounds=config.repeats or plan.num_rounds,
        num_forward_runs=plan.num_forward_runs,
    )
    _warn(settings)
    comparisons = compare(cases, settings)
    print_table(comparisons, settings)
    return comparisons


def _warn(settings: Settings) -> None:
    if settings.is_quick:
        print(QUICK_WARNING, file=sys.stderr)
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores / 4:
        print(f"the machine is busy (load {load:.1f} on {cores} cores): times will be off", file=sys.stderr)


def print_table(comparisons: list[Comparison], settings: Settings) -> None:
    """One row per case: seconds of a run, memory after construction and at its peak, ours / theirs."""
    first = comparisons[0]
    size = "tiny models (--quick)" if settings.is_quick else "BERT-base, fp32"
    table = Table(title=f"{size}, {settings.num_threads} threads: ours / {ORACLE_VERSION}")
    table.add_column("case", overflow="fold")
    for column in ("seconds", "ratio", "GB once made", "GB at peak", "ratio"):
        table.add_column(column, justify="right")
    for comparison in comparisons:
        table.add_row(*_row(comparison))
    console = Console(width=TABLE_WIDTH)
    console.print(table)
    console.print(f"ours: {first.ours.versions}; theirs: {first.theirs.versions}", highlight=False)
    if settings.is_quick:
        console.print(QUICK_WARNING)


def print_json(values: dict[str, Any]) -> None:
    """The last line of standard output."""
    print(json.dumps({**values, "quick": True} if "--quick" in sys.argv else values))


def rounded(ratio: float | None) -> float | None:
    """To a thousandth."""
    return None if ratio is None else round(ratio, 3)


def _row(comparison: Comparison) -> tuple[str, ...]:
    ours, theirs, case = comparison.ours, comparison.theirs, comparison.case
    per = case.num_questions
    name = case.name if per == 1 else f"{case.name}, per question: ours in one batch, theirs one by one"
    return (
        name,
        f"{ours.median_seconds / per:.3g} / {theirs.median_seconds / per:.3g}",
        f"{comparison.time_ratio:.2f}",
        f"{ours.constructed_bytes / 1e9:.2f} / {theirs.constructed_bytes / 1e9:.2f}",
        f"{ours.peak_bytes / 1e9:.2f} / {theirs.peak_bytes / 1e9:.2f}",
        f"{comparison.memory_ratio:.2f}",
    )
