"""What a live index costs a training step, and the memory of a step: `python -m benchmarks.train_step`.

Overhead: real SQuAD paragraphs are ingested, embedded and indexed; then, in turns, the same steps are trained twice:

    live    batches from the example generator and the retrieval service, while the refresher embeds the corpus anew
            without a pause, indexes, publishes, swaps
    disk    the same batches read from files; no service, no generator, no refresh

The cores are shared out: ranks have the first half for themselves on both sides; refresher, generator, service and Ray
have the others. A step's time is from the end of the step before to its own end, so that checkpoints and the hand-over
of encoders are in it. Steps before the first refresh has begun are left out on both sides.

Memory: peak resident bytes of one step of BERT-base, 8 candidates x 384 tokens without padding, each side in a process
of its own, against transformers 4.40.2's RealmScorer and RealmKnowledgeAugEncoder, which need some 16 GB.

The last line is JSON: `overhead_of_refresh` (live / disk - 1), `wait_share` (of the live steps' time, waiting for
examples), `peak_memory_vs_hf`. A step takes some 12 s on one core: `--rounds 1 --steps 30` is a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from benchmarks.command import benchmark_parser, print_last_line, require_positive
from benchmarks.embed_blocks import read_documents
from benchmarks.embed_prepare import require_minilm
from benchmarks.oracle import ROOT, oracle_python
from benchmarks.side_by_side import environment
from benchmarks.train_step_loop import RecordedSource, RecordingSource, pin, pinned_loop
from benchmarks.train_step_worker import SIDES
from cluster.pretraining import example_generators
from cluster.refresher import RefresherClient
from cluster.resources import ResourcePlan, plan_resources
from cluster.retrieval_service import start_service, stop_service
from cluster.session import cluster_capacity, ray_session
from cluster.trainer import run_on_workers
from pipelines.display import console, say
from pipelines.embed import EmbedConfig, run_embed
from pipelines.index import IndexConfig, run_index
from pipelines.ingest import IngestConfig, run_ingest
from pipelines.pretrain import PretrainConfig, pretrain_plan, refresher_config
from realm_core.errors import RealmError
from realm_core.storage.files import Store
from realm_core.storage.snapshots import load_snapshot
from realm_core.training.run_folder import RunFolder

if TYPE_CHECKING:
    from benchmarks.embed_blocks import Document
    from cluster.pretraining import BatchSource, PretrainPlan

LOSS_TOLERANCE = 1e-4
"""Relative, between the two sides of the memory comparison on a small batch without dropout."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where; empty for both where there is only one core."""

    trainer: tuple[int, ...]
    others: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """One side of one round."""

    seconds: float
    """Of the steps that count, together."""
    num_steps: int
    wait_seconds: float
    num_refreshes: int


def main() -> None:
    """Parses the options, measures, prints the tables and the last line."""
    parser = benchmark_parser("train_step", __doc__)
    parser.add_argument("--encoder", help="BERT-family checkpoint; by default all-MiniLM-L6-v2")
    parser.add_argument("--articles", type=int, default=20, help="of SQuAD, as corpus")
    parser.add_argument("--steps", type=int, default=60, help="of each side and round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--refresh-interval-steps", type=int, default=10)
    parser.add_argument("--only", choices=("overhead", "memory"))
    parser.add_argument("--quick", action="store_true", help="memory of tiny models: the ratio then means nothing")
    options = parser.parse_args()
    require_positive(parser, options, "articles", "steps", "rounds", "batch_size", "refresh_interval_steps")
    print_last_line(lambda: run(options))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures both; what was left out is null."""
    memory = None if options.only == "overhead" else peak_memory_vs_hf(is_quick=options.quick)
    overhead = {} if options.only == "memory" else measure_overhead(options)
    return {
        "overhead_of_refresh": overhead.get("overhead_of_refresh"),
        "wait_share": overhead.get("wait_share"),
        "peak_memory_vs_hf": memory,
    }


def peak_memory_vs_hf(*, is_quick: bool) -> float:
    """Peak of ours / theirs, after their losses were found to agree."""
    threads = os.cpu_count() or 1
    found = {side: _measured(side, threads, is_quick=is_quick) for side in SIDES}
    theirs = found["theirs"]
    table = Table(title="a training step: 1 query x 8 candidates, fp32" + (", TINY" if is_quick else ", BERT-base"))
    for column in ("side", "GB once made", "GB at peak", "ratio", "seconds (one cold step)"):
        table.add_column(column)
    for side, one in found.items():
        if abs(one["loss"] - theirs["loss"]) > LOSS_TOLERANCE * abs(theirs["loss"]):
            raise RealmError(
                where=f"train_step, {side}",
                found=f"a loss of {one['loss']}",
                expected=f"that of transformers 4.40.2, {theirs['loss']}",
                action="Repair the model first: a comparison of different computations says nothing.",
            )
        gigabytes = [f"{one[name] / 1e9:.2f}" for name in ("constructed_bytes", "peak_bytes")]
        table.add_row(side, *gigabytes, f"{one['peak_bytes'] / theirs['peak_bytes']:.2f}", f"{one['seconds']:.1f}")
    console().print(table)
    return round(found["ours"]["peak_bytes"] / theirs["peak_bytes"], 3)


def _measured(side: str, threads: int, *, is_quick: bool) -> dict[str, Any]:
    say(f"memory: {side}")
    python = oracle_python() if side == "theirs" else sys.executable
    command = [python, "-W", "ignore", "-m", "benchmarks.train_step_worker", "--side", side]
    command += ["--num-threads", str(threads), *(["--quick"] if is_quick else [])]
    done = subprocess.run(command, cwd=ROOT, env=environment(threads), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RealmError(
            where=f"train_step, {side}",
            found=f"a worker that ended with exit code {done.returncode}: {done.stderr.strip()[-200:]}",
            expected="exit code 0",
            action="Make room in memory: transformers 4.40.2 needs some 16 GB.",
        )
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def measure_overhead(options: argparse.Namespace) -> dict[str, float]:
    """Both sides in turns, in one Ray session."""
    articles = read_documents(options.data)[: options.articles]
    folder = Path(tempfile.mkdtemp(prefix="realm-train-step-"))
    cores = share_cores() if options.device == "cpu" else Cores((), ())
    try:
        with ray_session():
            config = _prepare(options, articles, folder)
        pin(cores.others)  # not before: threads for all cores, on half of them, wait for one another
        with ray_session():
            rounds = [_round(options, config, folder, cores, number) for number in range(options.rounds)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return _summary(rounds, cores)


def share_cores() -> Cores:
    """The first half for the ranks, the rest for all others."""
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    return Cores(tuple(cores[:half]), tuple(cores[half:])) if half else Cores((), ())


def _prepare(options: argparse.Namespace, articles: list[Document], folder: Path) -> PretrainConfig:
    encoder, store, source = options.encoder or str(require_minilm()), str(folder / "store"), folder / "articles.jsonl"
    source.write_text(
        "".join(json.dumps({"title": one.title, "text": "\n\n".join(one.paragraphs)}) + "\n" for one in articles)
    )
    run_ingest(IngestConfig(store=store, source=str(source), encoder=encoder))
    run_embed(EmbedConfig(store=store, encoder=encoder, num_workers=1))
    run_index(IndexConfig(store=store))
    return PretrainConfig(
        store=store,
        encoder=encoder,
        num_steps=options.steps,
        refresh_interval_steps=options.refresh_interval_steps,
        batch_size=options.batch_size,
        num_embedding_workers=1,
        num_warmup_steps=1,
    )


def _round(
    options: argparse.Namespace, config: PretrainConfig, folder: Path, cores: Cores, number: int
) -> tuple[Steps, Steps]:
    """Live steps, then the same from disk; both begin with the encoder that was ingested with."""
    store = Store(config.store)
    start = load_snapshot(store)
    resources = _resources(options, cores)
    recorded = folder / f"batches-{number}"
    recorded.mkdir()
    live = RunFolder(store, f"live-{number}")
    plan = pretrain_plan(config, store, live, start)
    say(f"round {number + 1}: live")
    start_service(store)
    refresher = RefresherClient.start(refresher_config(config, store, live, start, resources))
    try:
        with example_generators(plan, 1) as [source]:
            _train(plan, RecordingSource(source, recorded), refresher, resources, cores, folder)
    finally:
        refresher.stop()
        stop_service()
    say(f"round {number + 1}: disk")
    disk = RunFolder(store, f"disk-{number}")
    _train(replace(plan, run_name=disk.name), RecordedSource(recorded), None, resources, cores, folder)
    first = options.refresh_interval_steps + 1
    return _steps(live, first), _steps(disk, first)


def _train(
    plan: PretrainPlan,
    source: BatchSource,
    refresher: RefresherClient | None,
    resources: ResourcePlan,
    cores: Cores,
    folder: Path,
) -> None:
    loop_config = {
        "plan": plan,
        "sources": [source],
        "refresher": refresher,
        "yields_cpu": False,
        "trainer_cores": cores.trainer,
    }
    run_on_workers(pinned_loop, loop_config, plan=resources, name=plan.run_name, folder=folder / "ray")


def _resources(options: argparse.Namespace, cores: Cores) -> ResourcePlan:
    num_cpus, num_gpus = cluster_capacity()
    plan = plan_resources(
        num_cpus=num_cpus,
        num_gpus=num_gpus if options.device == "cuda" else 0,
        embedding_workers=1,
        trainer_workers=1,
        precision="auto",
    )
    embedding = replace(plan.embedding, threads=len(cores.others) or plan.embedding.threads)
    return replace(plan, embedding=embedding, trainer_threads=len(cores.trainer) or plan.trainer_threads)


def _steps(run: RunFolder, first: int) -> Steps:
    lines = run.read_metrics()
    counted = [line for line in lines if line["step"] > first]
    begun = next(line for line in lines if line["step"] == first)["at_seconds"]
    return Steps(
        seconds=counted[-1]["at_seconds"] - begun,
        num_steps=len(counted),
        wait_seconds=sum(line["wait_seconds"] for line in counted),
        num_refreshes=sum(refresh["status"] == "live" for refresh in run.read_refreshes()),
    )


def _summary(rounds: list[tuple[Steps, Steps]], cores: Cores) -> dict[str, float]:
    table = Table(title=f"steps on cores {list(cores.trainer)}, all else on {list(cores.others)}")
    for column in ("round", "s a step, live", "s a step, disk", "live / disk - 1", "waiting, live", "refreshes"):
        table.add_column(column)
    for number, (live, disk) in enumerate(rounds):
        table.add_row(
            str(number + 1),
            f"{live.seconds / live.num_steps:.3f}",
            f"{disk.seconds / disk.num_steps:.3f}",
            f"{live.seconds / disk.seconds - 1:+.1%}",
            f"{live.wait_seconds / live.seconds:.1%}",
            str(live.num_refreshes),
        )
    console().print(table)
    live_seconds, disk_seconds = (sum(side.seconds for side in sides) for sides in zip(*rounds, strict=True))
    waited = sum(live.wait_seconds for live, _ in rounds)
    return {
        "overhead_of_refresh": round(live_seconds / disk_seconds - 1, 4),
        "wait_share": round(waited / live_seconds, 4),
    }


if __name__ == "__main__":
    main()
