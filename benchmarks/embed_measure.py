"""The measurement of `benchmarks.embed`: sides take turns, round by round."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.embed_blocks import FORMS
from benchmarks.embed_tables import Likeness, Run, likeness, mean_cosine_between_rows, runs_of
from benchmarks.embed_turns import SideProcess, Sides
from realm_core.engines.flops import embedder_flops
from realm_core.errors import RealmError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.embed_prepare import Corpus
    from realm_core.modeling.configuration import RealmConfig

PLAIN = "plain"
"""The side that all others are compared with."""
PEERS = ("transformers", "sentence-transformers")
NUM_INVARIANCE_ROWS = 48


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """All that the sides were timed at."""

    runs: list[Run]
    likeness: dict[tuple[str, str], Likeness | None]
    """By side and form; None where the side's model is another one."""
    differences: dict[str, float]
    """By side: see `Row.largest_difference`."""
    names: dict[str, str]
    cosine_between_blocks: float | None
    """Of different blocks, on average: random weights make them alike, so cosines have to be held against this."""


def measure(
    folder: Path, sides: Sides, corpora: list[Corpus], config: RealmConfig, *, device: str, num_threads: int
) -> Measured:
    """Loads every side once, then times each on every slice.

    Raises:
        RealmError: one of our own sides did not start, or any side died later.
    """
    for side, reason in sides.left_out.items():
        say(f"left out: {side} ({reason})")
    with ExitStack() as stack:
        processes = list(_started(stack, sides, folder, device, num_threads))
        runs = [run for corpus in corpora for run in _rounds(processes, corpus, config)]
        differences = {
            process.spec.side: process.ask("invariance", blocks="paragraphs-0", num_rows=NUM_INVARIANCE_ROWS)
            for process in processes
            if process.spec.side.startswith("ours-")
        }
    names = {process.spec.side: process.name for process in processes}
    return Measured(
        runs=runs,
        likeness={(side, form): _likeness(folder, sides, runs, side, form) for side in names for form in FORMS},
        differences={side: answer["largest_difference"] for side, answer in differences.items()},
        names=names,
        cosine_between_blocks=_cosine_between_blocks(folder) if PLAIN in names else None,
    )


def _started(stack: ExitStack, sides: Sides, folder: Path, device: str, num_threads: int) -> Iterator[SideProcess]:
    """One after the other. A peer that does not start is left out."""
    for spec in sides.present:
        say(f"loading {spec.side}")
        try:
            process = SideProcess(spec, folder, device, num_threads)
        except RealmError as error:
            if spec.side not in PEERS:
                raise
            sides.left_out[spec.side] = error.found
            say(f"left out: {spec.side} ({error.found})")
        else:
            stack.callback(process.close)
            yield process


def _rounds(processes: list[SideProcess], corpus: Corpus, config: RealmConfig) -> Iterator[Run]:
    """Every other round goes backwards, so that no side is always right after the same one."""
    for number in range(len(corpus.slices)):
        for process in processes[:: 1 if number % 2 == 0 else -1]:
            run = _timed(process, corpus, number, config)
            say(f"{run.form}, round {run.round + 1}: {run.side}, {run.num_rows} blocks in {run.seconds:.1f} s")
            yield run


def _timed(process: SideProcess, corpus: Corpus, number: int, config: RealmConfig) -> Run:
    spec, blocks = process.spec, f"{corpus.form}-{number}"
    answer = process.ask("encode", blocks=blocks, every=spec.every, save=f"{spec.side}-{blocks}.npy")
    has_peak = spec.side.startswith("ours-")
    lengths_R = corpus.slices[number].lengths_R[:: spec.every]
    return Run(
        side=spec.side,
        form=corpus.form,
        round=number,
        num_rows=len(lengths_R),
        num_tokens=int(lengths_R.sum()),
        num_flops=embedder_flops(config, lengths_R),
        seconds=answer["seconds"],
        peak=process.ask("peak")["peak"] if has_peak else None,
    )


def _likeness(folder: Path, sides: Sides, runs: list[Run], side: str, form: str) -> Likeness | None:
    """Over the rows that both the side and the plain forward pass embedded."""
    every = {spec.side: spec.every for spec in sides.present}
    if PLAIN not in every or side == PLAIN:
        return None
    ours, plain = [], []
    for run in runs_of(runs, side, form):
        embeddings = {name: np.load(folder / f"{name}-{form}-{run.round}.npy") for name in (side, PLAIN)}
        ours.append(embeddings[side][:: max(1, every[PLAIN] // every[side])])
        plain.append(embeddings[PLAIN])
    return likeness(np.concatenate(ours), np.concatenate(plain))


def _cosine_between_blocks(folder: Path) -> float | None:
    return mean_cosine_between_rows(np.load(folder / f"{PLAIN}-paragraphs-0.npy"))


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)
