"""Search by inner product, side by side: exact, FAISS, ScaNN, ScaNN as ORQA ships it, and ours in 1, 4 and 16 shards.

    python -m benchmarks.search
    python -m benchmarks.search --store STORE      # also a store's blocks, with SQuAD's questions as queries

Of each corpus a table: seconds and memory of building, recall@5 of exact search, queries per second in batches and
latencies one by one. Each side builds in a process of its own and searches in another; settings are chosen on queries
of their own: the peers' fastest that meets the target recall, then for ours what `realm index` chooses for the recall
of the best single index. Then all are measured in turns, round by round, and ratios are of the same round.

Peak memory counts mapped pages of files. The last line is JSON: `recall_at_5`, `qps_vs_orqa_setting` and
`qps_sharded_vs_single` of ours in 4 shards on the synthetic corpus, and all sides of ours on each corpus.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.answering_process import AnsweringProcess
from benchmarks.command import DATA, benchmark_parser, print_last_line, require_positive
from benchmarks.embed_turns import num_threads_or_all
from benchmarks.search_corpus import SearchTask, store_task, synthetic_task
from benchmarks.search_indexes import SIDES, SINGLE_INDEXES, why_not
from benchmarks.search_tables import Measured, best_single, setting_text, summary, table
from realm_core.storage.files import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROWS, QUICK_ROWS, FEWEST_ROWS = 1_000_000, 50_000, 10_000
TARGET_RECALL = 0.95
SINGLES_PER_ROUND = 200
FIRST_BATCHES = 3
"""Rounds' worth of searching by which the best single index is found."""


def main() -> None:
    """Parses the options, measures, prints the tables and the last line."""
    parser = benchmark_parser("search", __doc__, needs_data=False)
    parser.add_argument("--rows", type=int, help=f"of the synthetic corpus, at least {FEWEST_ROWS:,}; {ROWS:,}")
    parser.add_argument("--store", help="also search what this store's newest encoder made of its newest corpus")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with squad/, for the questions")
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--target-recall", type=float, default=TARGET_RECALL)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of searching in batches per side and round")
    parser.add_argument("--threads", type=int, help="all cores unless given")
    parser.add_argument("--quick", action="store_true", help="few rows and rounds, to see that everything runs")
    parser.set_defaults(rows=ROWS, rounds=7, seconds=1.0)
    if parser.parse_args().quick:
        parser.set_defaults(rows=QUICK_ROWS, rounds=2, seconds=0.1)
    options = parser.parse_args()
    require_positive(parser, options, "rounds", "threads")
    if options.rows < FEWEST_ROWS:
        parser.error(f"--rows must be {FEWEST_ROWS:,} or more: ORQA's 1,000 leaves need rows to train on")
    print_last_line(lambda: run(options))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures each corpus, prints its table, and returns the last line."""
    makers: list[Callable[[Path], SearchTask]] = [lambda folder: synthetic_task(folder, options.rows)]
    if options.store:
        makers.append(lambda folder: store_task(folder, Store(options.store), options.data))
    found = {}
    for name, make in zip(("synthetic", "store"), makers, strict=False):
        with tempfile.TemporaryDirectory(prefix="realm-search-") as scratch:
            _say(f"{name}: embeddings, queries and their exact hits")
            found[name] = measure_corpus(make(Path(scratch)), options)
    if not options.store:
        print("Real embeddings: make a store with `realm ingest` and `realm embed`, then add --store STORE.")
    if options.quick:
        print("--quick: to see that everything runs. THE FIGURES MEAN NOTHING.")
    first = found["synthetic"]
    keys = ("recall_at_5", "qps_vs_orqa_setting", "qps_sharded_vs_single")
    return {key: first[key] for key in keys} | {"rows": options.rows, "corpora": found}


def measure_corpus(task: SearchTask, options: argparse.Namespace) -> dict[str, Any]:
    """Builds, tunes and measures all sides; prints the table."""
    names = [name for name in options.sides if _is_possible(name)]
    num_threads = num_threads_or_all(options.threads)
    sides = {name: _built(name, task, num_threads) for name in names}
    with contextlib.ExitStack() as stack:
        processes = {}
        for name in names:
            processes[name] = _process(name, "search", task, num_threads)
            stack.callback(processes[name].close)
        best = _tune(sides, processes, options.target_recall, options.seconds)
        for number in range(options.rounds):
            _say(f"round {number + 1} of {options.rounds}")
            _measure_round(sides, processes, number, options.seconds)
        for name, side in sides.items():
            side.search_peak_bytes = processes[name].ask("memory")["peak_bytes"]
    print(f"\n{task.name}; {task.num_test_queries:,} queries at a time, {num_threads} threads, {options.rounds} rounds")
    print(table(sides, best) + "\n")
    return summary(sides, best)


def _tune(
    sides: dict[str, Measured], processes: dict[str, AnsweringProcess], target: float, seconds: float
) -> Measured | None:
    """Chooses all settings: the peers' for the target, ours for what the best single index then finds."""
    for name, side in sides.items():
        if not name.startswith("ours-"):
            _choose(side, processes[name], target)
    for name in set(SINGLE_INDEXES) & set(sides):
        batch = processes[name].ask("batch", setting=sides[name].setting, seconds=FIRST_BATCHES * seconds)
        sides[name].first_rate = batch["queries_per_second"]
    best = best_single(sides, target)
    for name, side in sides.items():
        if name.startswith("ours-"):
            _choose(side, processes[name], max(target, best.tuned_recall) if best else target)
    return best


def _choose(side: Measured, process: AnsweringProcess, target: float) -> None:
    answer = process.ask("tune", target=target)
    side.setting, side.tuned_recall = answer["setting"], answer["recall"]
    _say(f"{side.side}: {setting_text(side.setting)}, recall@5 {side.tuned_recall:.4f} where {target:.4f} is wanted")


def _measure_round(
    sides: dict[str, Measured], processes: dict[str, AnsweringProcess], number: int, seconds: float
) -> None:
    for name in _rotated(list(sides), number):
        side, process = sides[name], processes[name]
        batch = process.ask("batch", setting=side.setting, seconds=seconds)
        side.rates.append(batch["queries_per_second"])
        side.recall = batch["recall"]
        start = number * SINGLES_PER_ROUND
        single = process.ask("single", setting=side.setting, start=start, num=SINGLES_PER_ROUND)
        side.milliseconds += single["milliseconds"]


def _built(name: str, task: SearchTask, num_threads: int) -> Measured:
    process = _process(name, "build", task, num_threads)
    process.close()
    found = process.first
    _say(f"{name}: built in {found['seconds']:.1f} s, peak {found['peak_bytes'] / 1e9:.2f} GB")
    return Measured(
        side=name,
        build_seconds=found["seconds"],
        build_peak_bytes=found["peak_bytes"],
        index_bytes=found["index_bytes"],
    )


def _process(name: str, step: str, task: SearchTask, num_threads: int) -> AnsweringProcess:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.search_side", "--side", name, "--step", step]
    command += ["--folder", str(task.folder), "--num-threads", str(num_threads)]
    return AnsweringProcess(name, command, task.folder / f"{name}-{step}.log", num_threads=num_threads)


def _is_possible(name: str) -> bool:
    reason = why_not(name)
    if reason:
        _say(f"{name} is left out: {reason}")
    return reason is None


def _rotated(names: Sequence[str], number: int) -> list[str]:
    first = number % len(names)
    return [*names[first:], *names[:first]]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
