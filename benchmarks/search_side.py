"""One side of `benchmarks.search` in a process of its own: `python -m benchmarks.search_side --side … --step build`.

`--step search` loads what was built, then answers requests; so memory and time of building and searching are apart.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss

from benchmarks.answers import answer_requests, say_answer
from benchmarks.model_worker import peak_bytes
from benchmarks.search_corpus import load_exact_rows, load_queries, load_vectors, recall_at
from benchmarks.search_indexes import SIDES, Side

if TYPE_CHECKING:
    from collections.abc import Callable

NUM_HITS = 5
TUNING_ROUNDS = 2
"""Seconds of a setting are the least of so many."""


def main() -> None:
    """Builds, or answers until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=sorted(SIDES), required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--num-threads", type=int, required=True)
    parser.add_argument("--step", choices=("build", "search"), required=True)
    options = parser.parse_args()
    faiss.omp_set_num_threads(options.num_threads)
    side, folder = SIDES[options.side](len(load_vectors(options.folder))), options.folder / options.side
    if options.step == "build":
        folder.mkdir()
        say_answer(_build(side, folder))
    else:
        started = time.perf_counter()
        side.load(folder, options.num_threads)
        say_answer({"load_seconds": time.perf_counter() - started})
        answer_requests(Worker(side, options.folder).answer)


def _build(side: Side, folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    side.build(folder)
    return {
        "seconds": time.perf_counter() - started,
        "peak_bytes": peak_bytes(),
        "index_bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }


class Worker:
    """Carries out what the benchmark asks a side for."""

    def __init__(self, side: Side, folder: Path) -> None:
        self._side, self._folder = side, folder
        self._queries_BD = load_queries(folder, "test")
        self._exact_BK = load_exact_rows(folder, "test")

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """`{"do": …}` with the arguments of the method of that name."""
        ask: dict[str, Callable[..., dict[str, Any]]] = {
            "tune": self.tune,
            "batch": self.batch,
            "single": self.single,
            "memory": self.memory,
        }
        return ask[request.pop("do")](**request)

    def tune(self, target: float) -> dict[str, Any]:
        """The fastest setting that finds so much, on queries of its own; the one that finds most if none does."""
        if hasattr(self._side, "tune"):
            chosen: dict[str, Any] = self._side.tune(target)
            return chosen
        points = [self._measured(setting) for setting in self._side.settings()]
        return chosen_point(points, target)

    def batch(self, setting: dict[str, Any], seconds: float) -> dict[str, Any]:
        """All test queries at once, again and again for so long."""
        found_BK = self._side.search(self._queries_BD, NUM_HITS, setting)
        num_batches, started = 0, time.perf_counter()
        while not num_batches or time.perf_counter() - started < seconds:
            self._side.search(self._queries_BD, NUM_HITS, setting)
            num_batches += 1
        rate = num_batches * len(self._queries_BD) / (time.perf_counter() - started)
        return {"queries_per_second": rate, "recall": recall_at(NUM_HITS, found_BK, self._exact_BK)}

    def single(self, setting: dict[str, Any], start: int, num: int) -> dict[str, Any]:
        """Milliseconds of each of so many queries, one by one."""
        milliseconds = []
        for number in range(start, start + num):
            query_BD = self._queries_BD[number % len(self._queries_BD)][None]
            started = time.perf_counter()
            self._side.search(query_BD, NUM_HITS, setting)
            milliseconds.append(1e3 * (time.perf_counter() - started))
        return {"milliseconds": milliseconds}

    def memory(self) -> dict[str, Any]:
        """The most this process ever had, mapped pages of files among it."""
        return {"peak_bytes": peak_bytes()}

    def _measured(self, setting: dict[str, Any]) -> dict[str, Any]:
        queries_BD, exact_BK = load_queries(self._folder, "tuning"), load_exact_rows(self._folder, "tuning")
        seconds = []
        for _ in range(TUNING_ROUNDS):
            started = time.perf_counter()
            found_BK = self._side.search(queries_BD, NUM_HITS, setting)
            seconds.append(time.perf_counter() - started)
        return {"setting": setting, "recall": recall_at(NUM_HITS, found_BK, exact_BK), "seconds": min(seconds)}


def chosen_point(points: list[dict[str, Any]], target: float) -> dict[str, Any]:
    """The fastest of those with that recall; the one with the highest if none has it."""
    enough = [point for point in points if point["recall"] >= target]
    if not enough:
        return max(points, key=lambda point: point["recall"])
    return min(enough, key=lambda point: point["seconds"])


if __name__ == "__main__":
    main()
