"""From checkpoint to live: `python -m benchmarks.refresh [--rows 1000000] [--num-shards 8] [--quick]`.

Refresher, embedding pool, index, gate, publishing and a retrieval service that is swapped are the system's own; only
the encoder stands in for one on an H200: it sleeps, 90 s for a million blocks, and gives vectors in clusters. Time runs
from the moment that the checkpoint is offered to a refresher whose workers are up, as they are in training, until
searches are answered by the new snapshot.

Shards are indexed while later parts are embedded: what is not hidden behind embedding is shown for each stage. On a
machine where others compute too, that part is longer; the share of the cores that was in use by others is shown.

The last line is JSON with `non_embed_share`; the goal is 0.10 or less for a million rows.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.clustered import ClusteredEmbeddings
from benchmarks.command import benchmark_parser, print_last_line, require_positive
from benchmarks.embed_scaling import OwnCpu
from benchmarks.embed_tables import aligned, rounded
from benchmarks.refresh_store import ClusteredLoader, write_corpus
from cluster.embedding import EmbeddingPool
from cluster.indexing import EncodedCorpus, index_corpus
from cluster.refresh import IndexPlan, gate_queries
from cluster.refresher import RefresherClient, RefresherConfig
from cluster.resources import EmbeddingPlan, ResourcePlan
from cluster.retrieval_service import service_left_as_found, start_service
from cluster.session import ray_session
from pipelines.display import Display
from realm_core.errors import ServiceError
from realm_core.index.specs import IndexSpec
from realm_core.storage.block_store import ROWS_PER_PART, BlockRecords
from realm_core.storage.encoder_pointer import EncoderVersion
from realm_core.storage.files import Store
from realm_core.storage.snapshots import publish
from realm_core.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable

    from realm_core.storage.block_store import CorpusManifest

SECONDS_PER_MILLION = 90.0
"""Of an H200, for blocks of a BERT-base embedder."""
RUN = "benchmark"
GOAL = 0.10
STAGES = ("embed", "index", "gate", "publish", "swap")
TIMEOUT_SECONDS = 1800.0
CPUS_PER_WORKER = 0.1
"""Of Ray's bookkeeping: a worker mostly sleeps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refreshed:
    """One refresh, as its record has it, and the machine meanwhile."""

    record: dict[str, Any]
    total_seconds: float
    """From the offer to live."""
    own_cpu_share: float
    """Of all cores, in use by what the benchmark started."""
    busy_cpu_share: float
    """Of all cores, in use by anything."""

    @property
    def non_embed_share(self) -> float:
        """What was not hidden behind embedding, of the whole."""
        return 1 - float(self.record["seconds"]["embed"]) / self.total_seconds


def main() -> None:
    """Measures and prints."""
    options = _options()
    print_last_line(lambda: run(options))


def _options() -> argparse.Namespace:
    parser = benchmark_parser("refresh", __doc__, needs_data=False)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rows-per-part", type=int, default=ROWS_PER_PART)
    parser.add_argument("--num-shards", type=int, default=8)
    parser.add_argument("--num-workers", type=int, default=1, help="embedding actors, each as fast as an H200")
    parser.add_argument("--num-refreshes", type=int, default=1)
    parser.add_argument("--seconds-per-million", type=float, default=SECONDS_PER_MILLION)
    parser.add_argument("--kind", choices=("auto", "exact", "faiss", "scann"), default="auto")
    parser.add_argument("--quick", action="store_true", help="20,000 rows, to see that everything runs")
    options = parser.parse_args()
    if options.quick:
        parser.set_defaults(rows=20_000, rows_per_part=1_024, num_shards=4)
        options = parser.parse_args()
    require_positive(parser, options, "rows", "rows_per_part", "num_shards", "num_workers", "num_refreshes")
    if options.seconds_per_million < 0:
        parser.error("--seconds-per-million must be 0 or more")
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints the table, and returns the last line."""
    with (
        tempfile.TemporaryDirectory(prefix="realm-refresh-") as folder,
        ray_session(),
        service_left_as_found(),
        Display() as display,
    ):
        store = Store(folder)
        bar = display.task("parts", total=options.rows, unit="rows")
        corpus = write_corpus(store, options.rows, rows_per_part=options.rows_per_part, progress=bar.update)
        _say("the snapshot that the service begins with")
        _publish_first(store, corpus, options)
        start_service(store)
        refresher = RefresherClient.start(_refresher_config(store, corpus, options))
        refreshes = [_refresh(store, refresher, step) for step in range(1, options.num_refreshes + 1)]
        refresher.stop()
    print(_caption(options))
    print(_table(refreshes))
    if options.quick:
        print("--quick: to see that everything runs. THE SHARES MEAN NOTHING.")
    return summary_of(refreshes) | {"rows": options.rows, "num_shards": options.num_shards, "kind": options.kind}


def summary_of(refreshes: list[Refreshed]) -> dict[str, Any]:
    """The last line: of the refresh whose share is the median, the lower one of two."""
    by_share = sorted(refreshes, key=lambda one: one.non_embed_share)
    median = by_share[(len(by_share) - 1) // 2]
    return {
        "non_embed_share": rounded(median.non_embed_share),
        "goal": GOAL,
        "seconds": rounded(median.total_seconds),
        "stages": {stage: rounded(median.record["seconds"][stage]) for stage in STAGES},
        "after_embedding": {s: rounded(median.record["seconds_after_embedding"][s]) for s in STAGES[1:]},
        "recall_at_5": rounded(median.record["recall_at"]["recall@5"]),
        "overlap_at_10": rounded(median.record["overlap_at_10"]),
        "own_cpu_share": rounded(median.own_cpu_share),
        "busy_cpu_share": rounded(median.busy_cpu_share),
        "non_embed_shares": [rounded(one.non_embed_share) for one in refreshes],
    }


def _loader(options: argparse.Namespace, seconds_per_million: float) -> ClusteredLoader:
    embeddings = ClusteredEmbeddings(num_rows=options.rows)
    return ClusteredLoader(embeddings=embeddings, seconds_per_row=seconds_per_million / 1e6)


def _plan(options: argparse.Namespace) -> ResourcePlan:
    return ResourcePlan(
        embedding=EmbeddingPlan(num_workers=options.num_workers, cpus=CPUS_PER_WORKER, gpus=0.0, threads=1),
        precision="bf16",
        trainer_workers=0,
        trainer_cpus=0.0,
        trainer_gpus=0.0,
        trainer_threads=1,
    )


def _publish_first(store: Store, corpus: CorpusManifest, options: argparse.Namespace) -> None:
    """By an encoder that takes no time."""
    plan = _plan(options)
    pool = EmbeddingPool(store.url, plan.embedding, _loader(options, 0.0), precision=plan.precision)
    try:
        queries_BD = pool.encode_queries(gate_queries(BlockRecords(store, corpus)), "step-0")
        embedded = pool.embed(corpus.parts, "step-0")
    finally:
        pool.close()
    encoded = EncodedCorpus(
        corpus=corpus,
        encoder_digest="step-0",
        encoder_step=0,
        encoder_saved_at_seconds=time.time(),
        precision=plan.precision,
        embedding_digests=tuple(part.embedding_digest for part in embedded.parts),
    )
    result = index_corpus(
        store,
        encoded,
        gate_queries_BD=queries_BD,
        num_shards=options.num_shards,
        spec=IndexSpec(kind=options.kind),
        target_recall=0.95,
    )
    publish(store, result.manifest)


def _refresher_config(store: Store, corpus: CorpusManifest, options: argparse.Namespace) -> RefresherConfig:
    return RefresherConfig(
        store_url=store.url,
        corpus_digest=corpus.digest,
        run_name=RUN,
        index=IndexPlan(num_shards=options.num_shards, spec=IndexSpec(kind=options.kind), target_recall=0.95),
        plan=_plan(options),
        loader=_loader(options, options.seconds_per_million),
        num_kept_snapshots=1,
    )


def _refresh(store: Store, refresher: RefresherClient, step: int) -> Refreshed:
    _wait(lambda: refresher.status().is_ready)
    own_cpu = OwnCpu()
    psutil.cpu_percent()
    offered_at, offered_at_seconds = time.monotonic(), time.time()
    refresher.offer(EncoderVersion(digest=f"step-{step}", step=step, saved_at_seconds=offered_at_seconds))
    refresher.confirm_offers()

    def is_idle() -> bool:
        own_cpu.look()
        return refresher.status().is_idle

    _wait(is_idle)
    seconds = time.monotonic() - offered_at
    busy_cpu_share, own_seconds = psutil.cpu_percent() / 100, own_cpu.seconds()
    record = next(r for r in RunFolder(store, RUN).read_refreshes() if r["step"] == step)
    if record["status"] != "live":
        raise ServiceError(
            where=f"refresh {step}", found=record["error"], expected="a live snapshot", action="See above."
        )
    refreshed = Refreshed(
        record=record,
        total_seconds=record["live_at_seconds"] - offered_at_seconds,
        own_cpu_share=own_seconds / seconds / (os.cpu_count() or 1),
        busy_cpu_share=busy_cpu_share,
    )
    _say(f"refresh {step}: live after {refreshed.total_seconds:.1f} s, {refreshed.non_embed_share:.1%} not embedding")
    return refreshed


def _wait(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise ServiceError(
                where="refresher", found="no end", expected=f"one in {TIMEOUT_SECONDS:g} s", action="Try fewer --rows."
            )
        time.sleep(0.25)


def _caption(options: argparse.Namespace) -> str:
    return (
        f"{options.rows:,} blocks of 128 dimensions in {options.num_shards} shards ({options.kind}); a stand-in "
        f"encoder at {options.seconds_per_million:g} s a million, {options.num_workers} at a time; "
        f"{os.cpu_count()} cores"
    )


def _table(refreshes: list[Refreshed]) -> str:
    heads = ("refresh", "live after s", *(f"{stage} s" for stage in STAGES), "not embedding", "own CPU", "CPU in use")
    rows = []
    for number, one in enumerate(refreshes, start=1):
        seconds, last = one.record["seconds"], one.record["seconds_after_embedding"]
        stages = [f"{seconds['embed']:.1f}", *(f"{last[s]:.1f} of {seconds[s]:.1f}" for s in STAGES[1:])]
        shares = (one.non_embed_share, one.own_cpu_share, one.busy_cpu_share)
        rows.append((str(number), f"{one.total_seconds:.1f}", *stages, *(f"{share:.1%}" for share in shares)))
    return aligned([heads, *rows]) + "\nof a stage: seconds after the last part was embedded, of all its seconds"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
