"""How the embedding job scales out: `python -m benchmarks.embed_scaling [--actors 1 2 4 …] [--quick]`.

Everything is the job's own but the engine, which sleeps as one H200 would compute: 1.47 s for a part of 16,384 blocks,
that is all 13.35 million blocks of Wikipedia in 20 minutes. Each number of actors gets as many times the work (weak
scaling), and efficiency(n) = seconds with 1 actor / seconds with n actors.

On a cluster each GPU has cores and a network connection of its own; here all actors share one machine. Reading and
writing parts of full size for 64 actors would need several cores, and would measure this machine, not the job. So parts
are small (`--rows-per-part`), and take as long as full ones: each actor really reads its part of the store, checks it,
hands it to the engine, writes and checks the embeddings, and reports to the driver, at the pace of an H200, with files
that are as many times smaller. `--rows-per-part 16384` shows full size.

All actors are up before time runs; how long that takes is shown apart. The last line is JSON with `efficiency_at_64`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from benchmarks.command import benchmark_parser, print_last_line
from benchmarks.embed_blocks import Blocks
from benchmarks.embed_stand_in import DIMENSION, StandInLoader
from benchmarks.embed_store import write_corpus
from benchmarks.embed_tables import aligned, rounded
from benchmarks.oracle import ROOT
from cluster.session import ray_session
from realm_core.storage.files import Store

if TYPE_CHECKING:
    from realm_core.storage.block_store import PartEntry

ACTORS = (1, 2, 4, 8, 16, 32, 64)
FULL_ROWS, FULL_SECONDS = 16_384, 1.47
"""A part, and what an H200 needs for it."""
PARTS_PER_ACTOR = 13
"""As many as each of 64 actors gets of Wikipedia's 815 parts; the fewer, the more the start and the end weigh."""
PLOT = ROOT / "docs" / "images" / "embed_scaling.png"
TOKENS_PER_BLOCK = 152
START_TIMEOUT_SECONDS = 600.0
WARM_UP_PARTS = 2
"""Of each actor, of full length so that each gets its own: a process's first part costs it some tenths of a second."""
CPUS_PER_ACTOR = 0.01
"""Of Ray's bookkeeping: an actor mostly sleeps."""
GOAL = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """What so many actors took for as many times the work."""

    num_actors: int
    num_parts: int
    seconds: float
    start_seconds: float
    """Until all actors were there."""
    own_cpu_share: float
    """Of all cores, in use by driver, Ray and actors while it ran."""
    busy_cpu_share: float
    """Of all cores, in use by anything: what is more than the above disturbed it."""


def main() -> None:
    """Measures and prints."""
    options = _options()
    print_last_line(lambda: run(options))


def _options() -> argparse.Namespace:
    parser = benchmark_parser("embed_scaling", __doc__, needs_data=False)
    parser.add_argument("--actors", type=int, nargs="+", default=list(ACTORS))
    parser.add_argument("--parts-per-actor", type=int, default=PARTS_PER_ACTOR)
    parser.add_argument("--rows-per-part", type=int, default=512)
    parser.add_argument("--seconds-per-part", type=float, default=FULL_SECONDS)
    parser.add_argument("--plot", type=Path, default=PLOT, help="file of the plot; none with --quick")
    parser.add_argument("--quick", action="store_true", help="1 and 2 actors, to see that everything runs")
    options = parser.parse_args()
    if options.quick:
        parser.set_defaults(actors=[1, 2], parts_per_actor=2, rows_per_part=64, seconds_per_part=0.3, plot=None)
        options = parser.parse_args()
    if min(*options.actors, options.parts_per_actor, options.rows_per_part, 1) < 1 or options.seconds_per_part <= 0:
        parser.error("numbers must be positive")
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints the table, saves the plot, and returns the last line."""
    with tempfile.TemporaryDirectory(prefix="realm-scaling-") as folder, ray_session():
        _say("writing parts")
        parts = _write_parts(Store(folder), options)
        scales = []
        for number, num_actors in enumerate(sorted(set(options.actors))):
            scale = _measure(folder, parts, num_actors, options, encoder_digest=f"stand-in-{number}")
            _say(f"{num_actors} actors: up in {scale.start_seconds:.0f} s, {scale.seconds:.2f} s")
            scales.append(scale)
    print(_caption(options))
    print(_table(scales))
    if options.plot is not None:
        save_plot(scales, options.plot)
        print(f"plot: {options.plot}")
    if options.quick:
        print("--quick: to see that everything runs. THE EFFICIENCY MEANS NOTHING.")
    return summary_of(scales) | {
        "rows_per_part": options.rows_per_part,
        "seconds_per_part": options.seconds_per_part,
        "parts_per_actor": options.parts_per_actor,
    }


def efficiencies(scales: list[Scale]) -> list[float]:
    """Seconds with the fewest actors / seconds with so many, for work in proportion."""
    return [scales[0].seconds / scale.seconds for scale in scales]


def summary_of(scales: list[Scale]) -> dict[str, Any]:
    """The last line."""
    found = {scale.num_actors: value for scale, value in zip(scales, efficiencies(scales), strict=True)}
    return {
        "efficiency_at_64": rounded(found.get(64)) if scales[0].num_actors == 1 else None,
        "efficiency": {str(number): rounded(value) for number, value in found.items()},
        "seconds": {str(scale.num_actors): rounded(scale.seconds) for scale in scales},
        "start_seconds": {str(scale.num_actors): rounded(scale.start_seconds) for scale in scales},
        "own_cpu_share": {str(scale.num_actors): rounded(scale.own_cpu_share) for scale in scales},
        "busy_cpu_share": {str(scale.num_actors): rounded(scale.busy_cpu_share) for scale in scales},
    }


def save_plot(scales: list[Scale], path: Path) -> None:
    """Parts per second and efficiency over the number of actors."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    actors, shares = [scale.num_actors for scale in scales], efficiencies(scales)
    rates = [scale.num_parts / scale.seconds for scale in scales]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.loglog(actors, rates, "o-", base=2, label="measured")
    left.loglog(actors, [rates[0] * n / actors[0] for n in actors], "--", base=2, color="gray", label="proportional")
    left.set(xlabel="embedding actors", ylabel="parts per second")
    left.yaxis.set_major_formatter("{x:g}")
    left.legend()
    right.semilogx(actors, shares, "o-", base=2)
    right.axhline(GOAL, linestyle=":", color="gray")
    right.set(xlabel="embedding actors", ylabel="efficiency", ylim=(0, 1.05))
    for axes in (left, right):
        axes.set_xticks(actors, [str(n) for n in actors])
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _write_parts(store: Store, options: argparse.Namespace) -> list[PartEntry]:
    """For the most actors: those to warm up on, and those that are timed."""
    num_parts = max(options.actors) * (WARM_UP_PARTS + options.parts_per_actor)
    blocks = _random_blocks(num_parts * options.rows_per_part)
    return list(write_corpus(store, blocks, rows_per_part=options.rows_per_part).parts)


def _random_blocks(num_rows: int) -> Blocks:
    """Texts are their numbers: nothing reads them here."""
    ids = np.random.default_rng(0).integers(1000, 30_000, (num_rows, TOKENS_PER_BLOCK)).astype(np.uint16)
    texts = [str(row) for row in range(num_rows)]
    return Blocks(titles=texts, bodies=texts, title_ids=[row[:4] for row in ids], body_ids=[row[4:] for row in ids])


def _measure(
    store_url: str, parts: list[PartEntry], num_actors: int, options: argparse.Namespace, *, encoder_digest: str
) -> Scale:
    """Starts the actors, lets each embed a few parts, then times the work."""
    from cluster.embedding import EmbeddingPool
    from cluster.resources import EmbeddingPlan

    plan = EmbeddingPlan(num_workers=num_actors, cpus=CPUS_PER_ACTOR, gpus=0.0, threads=1)
    loader = StandInLoader(seconds_per_row=options.seconds_per_part / options.rows_per_part)
    pool = EmbeddingPool(store_url, plan, loader, precision="fp32")
    began = time.perf_counter()
    try:
        pool.start()
        pool.wait_until_ready(num_actors, timeout_seconds=START_TIMEOUT_SECONDS)
        num_warm_up = num_actors * WARM_UP_PARTS
        pool.embed(parts[:num_warm_up], encoder_digest)
        work = parts[num_warm_up : num_warm_up + num_actors * options.parts_per_actor]
        own_cpu = OwnCpu()
        psutil.cpu_percent()
        started = time.perf_counter()
        result = pool.embed(work, encoder_digest)
        seconds = time.perf_counter() - started
        busy_cpu_share, own_seconds = psutil.cpu_percent() / 100, own_cpu.seconds()
    finally:
        pool.close()
    assert result.num_made == len(work), "every part was made anew"
    return Scale(
        num_actors=num_actors,
        num_parts=len(work),
        seconds=seconds,
        start_seconds=started - began,
        own_cpu_share=own_seconds / seconds / (os.cpu_count() or 1),
        busy_cpu_share=busy_cpu_share,
    )


class OwnCpu:
    """CPU seconds of this process and of all that it started, Ray and its actors included, since this object was made.

    A process that ended counts as far as the last `look` saw it.
    """

    def __init__(self) -> None:
        self._seconds: dict[tuple[int, float], float] = {}
        self.look()
        self._before = sum(self._seconds.values())

    def look(self) -> None:
        """Notes what each process has used by now."""
        for process in (me := psutil.Process(), *me.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                self._seconds[process.pid, process.create_time()] = times.user + times.system

    def seconds(self) -> float:
        """By now."""
        self.look()
        return sum(self._seconds.values()) - self._before


def _caption(options: argparse.Namespace) -> str:
    num_bytes = 4 * DIMENSION * options.rows_per_part
    return (
        f"stand-in engine: {options.seconds_per_part:g} s a part (an H200: {FULL_SECONDS} s for {FULL_ROWS:,} blocks); "
        f"parts of {options.rows_per_part:,} blocks, {FULL_ROWS / options.rows_per_part:.3g} times smaller than full\n"
        f"each actor: {options.parts_per_actor} parts, each read, checked and encoded, {num_bytes / 1e6:.2f} MB "
        f"written and sealed; all on {os.cpu_count()} cores"
    )


def _table(scales: list[Scale]) -> str:
    heads = ("actors", "parts", "seconds", "efficiency", "parts/s", "own CPU", "CPU in use", "start s")
    rows = [
        (
            str(scale.num_actors),
            str(scale.num_parts),
            f"{scale.seconds:.2f}",
            f"{efficiency:.1%}",
            f"{scale.num_parts / scale.seconds:.2f}",
            f"{scale.own_cpu_share:.0%}",
            f"{scale.busy_cpu_share:.0%}",
            f"{scale.start_seconds:.0f}",
        )
        for scale, efficiency in zip(scales, efficiencies(scales), strict=True)
    ]
    return aligned([heads, *rows])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
