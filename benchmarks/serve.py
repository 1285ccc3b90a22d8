"""The retrieval service against the same index in process, many callers, and swaps under load.

    python -m benchmarks.serve

Makes a store of clustered synthetic embeddings in the project's own files, two encoders of it, and indexes both. Then,
in turns in one run: searches of 64 queries in process and through the actors, of one query, of 32 callers; and 16
callers that search without a pause through 20 swaps between the two snapshots, while each hit is checked.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from benchmarks.clustered import ClusteredEmbeddings
from benchmarks.command import benchmark_parser, print_last_line, require_positive
from benchmarks.serve_load import NUM_HITS, Callers, Load, p99_ratio
from benchmarks.serve_plot import plot_swaps
from benchmarks.synthetic_store import make_corpus, make_snapshot
from cluster.retrieval_service import RetrievalClient, start_service, stop_service
from cluster.session import ray_session
from pipelines.display import Display, console, say
from realm_core.retrieval.snapshot_search import LocalSnapshotSearch
from realm_core.storage.files import Store
from realm_core.storage.snapshots import publish

if TYPE_CHECKING:
    from realm_core.retrieval.snapshot_search import SnapshotSearch
    from realm_core.storage.snapshots import SnapshotManifest

BATCH = 64
ROUNDS = 8
SEARCHES_PER_ROUND = 60
SINGLE_SEARCHES = 2_000
CALLERS_SECONDS = 10.0
SECONDS_BETWEEN_SWAPS = 2.0


def main() -> None:
    """Parses the options, measures, prints the tables and the last line."""
    parser = benchmark_parser("serve", __doc__, needs_data=False)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--callers", type=int, default=16, help="during the swaps")
    parser.add_argument("--folder", type=Path, help="keeps the store, for another run; by default it is removed")
    parser.add_argument("--plot", type=Path, help="where to save the plot of latencies through the swaps")
    options = parser.parse_args()
    require_positive(parser, options, "rows", "shards", "swaps", "callers")
    print_last_line(lambda: run(options))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures everything."""
    folder = options.folder or Path(tempfile.mkdtemp(prefix="realm-serve-"))
    try:
        with ray_session():
            return _run(options, Store(str(folder)))
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def _run(options: argparse.Namespace, store: Store) -> dict[str, Any]:
    sources = [ClusteredEmbeddings(num_rows=options.rows, seed=seed) for seed in (0, 1)]
    corpus = make_corpus(store, options.rows)
    with Display() as display:
        snapshots = [
            make_snapshot(store, corpus, source, step=step, num_shards=options.shards, display=display).manifest
            for step, source in enumerate(sources)
        ]
    publish(store, snapshots[1])
    publish(store, snapshots[0])
    queries_BD = sources[0].queries(4_096)
    client = start_service(store)
    try:
        local = LocalSnapshotSearch(store)
        times = batch_times(local, client, queries_BD)
        local.close()
        single = single_times(client, queries_BD)
        many = many_callers(client, queries_BD, sources, snapshots, num_callers=32)
        load = swaps_under_load(client, queries_BD, sources, snapshots, options)
    finally:
        stop_service()
    if options.plot:
        plot_swaps(load, options.plot)
    return report(times, single, many, load, snapshots[0])


def batch_times(local: SnapshotSearch, client: SnapshotSearch, queries_BD: np.ndarray) -> dict[str, np.ndarray]:
    """Seconds of searches of 64 queries, the two sides in turns."""
    times: dict[str, list[float]] = {"in process": [], "through the actors": []}
    for round_number in range(ROUNDS + 1):
        for name, search in zip(times, (local, client), strict=True):
            for i in range(SEARCHES_PER_ROUND):
                start = (round_number * SEARCHES_PER_ROUND + i) * BATCH % (len(queries_BD) - BATCH)
                seconds = _seconds(search, queries_BD[start : start + BATCH])
                if round_number:  # the first warms both up
                    times[name].append(seconds)
    return {name: np.array(values) for name, values in times.items()}


def single_times(client: SnapshotSearch, queries_BD: np.ndarray) -> np.ndarray:
    """Seconds of searches of one query by one caller."""
    return np.array([_seconds(client, queries_BD[i % 4000 : i % 4000 + 1]) for i in range(SINGLE_SEARCHES)])


def many_callers(
    client: RetrievalClient,
    queries_BD: np.ndarray,
    sources: list[ClusteredEmbeddings],
    snapshots: list[SnapshotManifest],
    *,
    num_callers: int,
) -> Load:
    """Callers of one query each, at once."""
    embeddings = {snapshots[0].snapshot_id: _as_stored(sources[0])}
    with Callers(client, queries_BD, embeddings, num_callers=num_callers, queries_per_search=1) as callers:
        time.sleep(CALLERS_SECONDS)
    return callers.load


def swaps_under_load(
    client: RetrievalClient,
    queries_BD: np.ndarray,
    sources: list[ClusteredEmbeddings],
    snapshots: list[SnapshotManifest],
    options: argparse.Namespace,
) -> Load:
    """Swaps to and fro under callers of 8 queries each."""
    pairs = zip(snapshots, sources, strict=True)
    embeddings = {snapshot.snapshot_id: _as_stored(source) for snapshot, source in pairs}
    say(f"swap memory: {client.memory_of_swap(snapshots[1].snapshot_id)}")
    with Callers(client, queries_BD, embeddings, num_callers=options.callers, queries_per_search=8) as callers:
        with Display() as display:
            bar = display.task("swaps", total=options.swaps, unit="swaps")
            for number in range(1, options.swaps + 1):
                time.sleep(SECONDS_BETWEEN_SWAPS)
                began = time.monotonic()
                client.swap(snapshots[number % 2].snapshot_id)
                callers.load.swaps.append((began, time.monotonic()))
                bar.update(number, note=f"{time.monotonic() - began:.1f} s")
        time.sleep(SECONDS_BETWEEN_SWAPS)
    return callers.load


def report(
    times: dict[str, np.ndarray], single: np.ndarray, many: Load, load: Load, snapshot: SnapshotManifest
) -> dict[str, Any]:
    """Prints the tables; returns the last line."""
    table = Table(
        title=f"searches of {snapshot.num_rows:,} rows in {len(snapshot.shards)} shards", title_justify="left"
    )
    for column in ("", "p50 ms", "p99 ms", "queries/s"):
        table.add_column(column, justify="right" if column else "left")
    for name, values in times.items():
        table.add_row(f"{BATCH} queries, {name}", *_row(values, BATCH))
    table.add_row("1 query, 1 caller", *_row(single, 1))
    rate = len(many.seconds) / (max(many.started) - min(many.started))
    table.add_row("1 query, 32 callers", *_row(np.array(many.seconds), 1)[:2], f"{rate:,.0f}")
    console().print(table)
    p99_during, p99_outside = p99_ratio(load)
    swap_seconds = [end - begin for begin, end in load.swaps]
    console().print(
        f"{len(load.swaps)} swaps under load: {len(load.seconds):,} searches of 8 queries answered, "
        f"{load.num_failures + many.num_failures} failed, {load.num_mixed + many.num_mixed} mixed; p99 "
        f"{1e3 * p99_during:.1f} ms during swaps, {1e3 * p99_outside:.1f} ms outside; a swap takes "
        f"{np.median(swap_seconds):.1f} s (median)"
    )
    for error in (load.errors + many.errors)[:3]:
        console().print(f"failed: {error}")
    local, remote = times.values()
    return {
        "batch64_time_vs_in_process": round(float(np.median(remote) / np.median(local)), 3),
        "p99_ms_single": round(1e3 * float(np.quantile(single, 0.99)), 2),
        "qps_32_callers": round(rate),
        "swap_failures": load.num_failures + many.num_failures,
        "swap_mixed": load.num_mixed + many.num_mixed,
        "swap_p99_ratio": round(p99_during / p99_outside, 2),
    }


def _seconds(search: SnapshotSearch, queries_BD: np.ndarray) -> float:
    started = time.perf_counter()
    search.search(queries_BD, NUM_HITS)
    return time.perf_counter() - started


def _row(seconds: np.ndarray, num_queries: int) -> tuple[str, str, str]:
    p50, p99 = np.quantile(seconds, (0.5, 0.99))
    return f"{1e3 * p50:.2f}", f"{1e3 * p99:.2f}", f"{num_queries / seconds.mean():,.0f}"


def _as_stored(source: ClusteredEmbeddings) -> np.ndarray:
    return source.rows(0, source.num_rows).astype(np.float16)


if __name__ == "__main__":
    main()
