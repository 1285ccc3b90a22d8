"""All of Wikipedia's 13,353,718 blocks on one machine: build, search, serve, and swap to a second full snapshot.

    python -m benchmarks.full_scale --folder FOLDER

Embeddings are clustered synthetic ones of 128 dimensions, in the project's own files and through its own index, gate
and service. Takes about 25 GB of disk and, on two cores, half an hour. What is in the folder already is used again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from rich.table import Table

from benchmarks.clustered import ClusteredEmbeddings
from benchmarks.command import benchmark_parser, print_last_line, require_positive
from benchmarks.memory_watch import MemoryWatch, process_tree, with_ids
from benchmarks.serve_load import Callers, Load, p99_ratio
from benchmarks.synthetic_store import make_corpus, make_snapshot
from cluster.refresh import NUM_GATE_QUERIES
from cluster.retrieval_service import RetrievalClient, start_service, stop_service
from cluster.session import ray_session
from pipelines.display import Display, console, say
from realm_core.index.truth import ExactTopK
from realm_core.retrieval.snapshot_search import LocalSnapshotSearch
from realm_core.storage.files import Store
from realm_core.storage.snapshots import publish

if TYPE_CHECKING:
    from realm_core.storage.block_store import CorpusManifest
    from realm_core.storage.snapshots import SnapshotManifest

WIKIPEDIA_BLOCKS = 13_353_718
NUM_HITS = 5
NUM_TEST_QUERIES = 1_024
PEER_BATCHES = (200, 1_024)
"""Queries that the exact peer is given at a time: FAISS takes another, slower way for fewer than about 1,000."""
SEARCH_BATCH = 1_024
SEARCH_ROUNDS = 5
ROWS_PER_CHUNK = 1 << 20
LOAD_SECONDS = 15.0


def main() -> None:
    """Parses the options, measures, prints the table and the last line."""
    parser = benchmark_parser("full_scale", __doc__, needs_data=False)
    parser.add_argument("--folder", type=Path, required=True, help="keeps embeddings, indexes and facts for a rerun")
    parser.add_argument("--rows", type=int, default=WIKIPEDIA_BLOCKS)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--target-recall", type=float, default=0.955, help="while tuning, on other queries than here")
    options = parser.parse_args()
    require_positive(parser, options, "rows", "shards")
    print_last_line(lambda: run(options))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Builds both snapshots, then measures the first, and the swap to the second."""
    store = Store(str(options.folder / "store"))
    sources = [ClusteredEmbeddings(num_rows=options.rows, seed=seed) for seed in (0, 1)]
    corpus = make_corpus(store, options.rows)
    built = [build(options, store, corpus, source, step) for step, source in enumerate(sources)]
    snapshots = [snapshot for snapshot, _ in built]
    for snapshot in reversed(snapshots):
        publish(store, snapshot)
    found = search_in_process(store, sources[0])
    found |= exact_rates(sources[0])
    with ray_session():
        client = start_service(store)
        try:
            served, load = serve(client, sources[0], snapshots)
        finally:
            stop_service()
    return report(built[0][1], found, served, load, snapshots[0])


def build(
    options: argparse.Namespace, store: Store, corpus: CorpusManifest, source: ClusteredEmbeddings, step: int
) -> tuple[SnapshotManifest, dict[str, Any]]:
    """A snapshot, and what building it took, from an earlier run where it was built then."""
    facts_file = options.folder / f"built-{options.rows}-{options.shards}-{step}.json"
    with ray_session(), Display() as display, MemoryWatch(process_tree) as memory:
        result = make_snapshot(
            store,
            corpus,
            source,
            step=step,
            num_shards=options.shards,
            display=display,
            target_recall=options.target_recall,
        )
    facts = {"seconds": result.seconds, "stages": result.seconds_by_stage, "peak_gb": memory.peak_gb}
    if result.num_reused_shards and facts_file.exists():
        facts = json.loads(facts_file.read_text())
    else:
        facts_file.write_text(json.dumps(facts))
    return result.manifest, facts


def search_in_process(store: Store, source: ClusteredEmbeddings) -> dict[str, Any]:
    """Recall on queries that the tuning has not seen, and queries per second in batches."""
    queries_BD = source.queries(NUM_GATE_QUERIES + NUM_TEST_QUERIES)[NUM_GATE_QUERIES:]
    truth = ExactTopK(queries_BD, NUM_HITS)
    with Display() as display:
        bar = display.task("exact", total=source.num_rows, unit="rows")
        for start in range(0, source.num_rows, ROWS_PER_CHUNK):
            stop = min(source.num_rows, start + ROWS_PER_CHUNK)
            truth.add(_as_stored(source, start, stop).astype(np.float32), start)
            bar.update(stop)
    local = LocalSnapshotSearch(store)
    result = local.search(queries_BD, NUM_HITS)
    recall = (result.block_ids_BK[:, :, None] == truth.hits.rows_BK[:, None, :]).any(axis=2).mean()
    seconds = [_timed(lambda: local.search(queries_BD, NUM_HITS)) for _ in range(SEARCH_ROUNDS)]
    single = [_timed(lambda i=i: local.search(queries_BD[i : i + 1], NUM_HITS)) for i in range(500)]
    local.close()
    return {
        "recall_at_5": float(recall),
        "queries_per_second": SEARCH_BATCH / float(np.median(seconds)),
        "single_p50_ms": 1e3 * float(np.median(single)),
    }


def exact_rates(source: ClusteredEmbeddings) -> dict[str, Any]:
    """Queries per second of `faiss.knn` over all rows on the same threads, for each size of batch."""
    seconds = dict.fromkeys(PEER_BATCHES, 0.0)
    queries_BD = source.queries(max(PEER_BATCHES))
    with Display() as display:
        bar = display.task("faiss.knn", total=source.num_rows, unit="rows")
        for start in range(0, source.num_rows, ROWS_PER_CHUNK):
            rows_RD = source.rows(start, min(source.num_rows, start + ROWS_PER_CHUNK))
            for num_queries in PEER_BATCHES:
                batch_BD = queries_BD[:num_queries]
                seconds[num_queries] += _timed(
                    lambda rows=rows_RD, batch=batch_BD: faiss.knn(
                        batch, rows, NUM_HITS, metric=faiss.METRIC_INNER_PRODUCT
                    )
                )
            bar.update(start + len(rows_RD))
    return {f"exact_queries_per_second_{num}": num / seconds[num] for num in PEER_BATCHES}


def serve(
    client: RetrievalClient, source: ClusteredEmbeddings, snapshots: list[SnapshotManifest]
) -> tuple[dict[str, Any], Load]:
    """Memory of the service under load, its rate in batches, and a swap to the second snapshot under load."""
    queries_BD = source.queries(NUM_GATE_QUERIES + NUM_TEST_QUERIES)[NUM_GATE_QUERIES:]
    say(f"swap memory: {client.memory_of_swap(snapshots[1].snapshot_id)}")
    with MemoryWatch(lambda: with_ids(client.processes().values())) as memory:
        client.search(queries_BD, NUM_HITS)
        seconds = [_timed(lambda: client.search(queries_BD, NUM_HITS)) for _ in range(SEARCH_ROUNDS)]
        with Callers(client, queries_BD, {}, num_callers=4, queries_per_search=64) as callers:
            time.sleep(LOAD_SECONDS)
    served = {"peak_gb": memory.peak_gb, "queries_per_second": SEARCH_BATCH / float(np.median(seconds))}
    with (
        MemoryWatch(
            lambda: [p for p in process_tree() if "realm-retrieval" in p.name() or "Shard" in p.name()]
        ) as both,
        Callers(client, queries_BD, {}, num_callers=4, queries_per_search=8) as callers,
    ):
        time.sleep(LOAD_SECONDS)
        began = time.monotonic()
        client.swap(snapshots[1].snapshot_id)
        callers.load.swaps.append((began, time.monotonic()))
        time.sleep(LOAD_SECONDS)
    return served | {"swap_peak_gb": both.peak_gb}, callers.load


def report(
    built: dict[str, Any], found: dict[str, Any], served: dict[str, Any], load: Load, snapshot: SnapshotManifest
) -> dict[str, Any]:
    """Prints the table; returns the last line."""
    rate = found["queries_per_second"]
    slow, fast = (found[f"exact_queries_per_second_{num}"] for num in PEER_BATCHES)
    p99_during, p99_outside = p99_ratio(load)
    (swap,) = load.swaps
    rows = [
        ("build", f"{built['seconds']:.0f} s ({_stages(built['stages'])}), peak {built['peak_gb']:.1f} GB"),
        ("searched with", json.dumps(snapshot.search_setting)),
        ("recall@5", f"{found['recall_at_5']:.4f} on {NUM_TEST_QUERIES:,} queries that the tuning has not seen"),
        (f"in process, {SEARCH_BATCH:,} at a time", f"{rate:,.0f} queries/s"),
        ("in process, one by one", f"{found['single_p50_ms']:.2f} ms (median)"),
        (f"through the actors, {SEARCH_BATCH:,} at a time", f"{served['queries_per_second']:,.0f} queries/s"),
        *(
            (f"exact, faiss.knn, {num:,} at a time", f"{value:.1f} queries/s: 1/{rate / value:,.0f}")
            for num, value in zip(PEER_BATCHES, (slow, fast), strict=True)
        ),
        ("service's memory under load", f"{served['peak_gb']:.1f} GB, {served['swap_peak_gb']:.1f} GB while it swaps"),
        (
            "a swap under load",
            f"{swap[1] - swap[0]:.1f} s, {len(load.seconds):,} searches of 8 queries, {load.num_failures} failed; "
            f"p99 {1e3 * p99_during:.1f} ms meanwhile, {1e3 * p99_outside:.1f} ms otherwise",
        ),
    ]
    table = Table(title=f"{snapshot.num_rows:,} rows in {len(snapshot.shards)} shards", title_justify="left")
    table.add_column("", overflow="fold")
    table.add_column("", overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    console().print(table)
    return {
        "recall_at_5": round(found["recall_at_5"], 4),
        "qps_vs_exact": round(rate / slow),
        "qps_vs_exact_in_large_batches": round(rate / fast),
        "queries_per_second": round(rate),
        "peak_build_gb": round(built["peak_gb"], 2),
        "peak_serve_gb": round(served["peak_gb"], 2),
        "build_seconds": round(built["seconds"]),
        "swap_failures": load.num_failures,
    }


def _as_stored(source: ClusteredEmbeddings, start: int, stop: int) -> np.ndarray:
    return source.rows(start, stop).astype(np.float16)


def _timed(run: Any) -> float:  # noqa: ANN401 - whatever is to be timed
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _stages(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())


if __name__ == "__main__":
    main()
