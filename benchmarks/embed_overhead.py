"""What the embedding job costs over the bare engine: `python -m benchmarks.embed_overhead [--blocks N] [--quick]`.

The job is what `realm embed` runs: a Ray actor reads parts from a store, encodes them and writes Parquet files; here
one actor with as many threads as the bare engine. The bare engine encodes the same parts one after the other from
memory, in one process without Ray. Small blocks (SQuAD sentences of 40 to 60 tokens) and a small encoder
(all-MiniLM-L6-v2) make the job's share as large as it gets.

Both take turns, each in a new process, and which goes first changes from round to round. Time runs from the moment the
engine is loaded until the last part is there: the start of Ray and of the actor and the loading of the model are shown
apart. The last line is JSON; `job_overhead` is the median over the rounds of job / bare - 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.command import benchmark_parser, print_last_line, require_positive
from benchmarks.embed_blocks import read_documents, sentence_blocks
from benchmarks.embed_prepare import require_minilm
from benchmarks.embed_store import write_corpus
from benchmarks.embed_tables import aligned, rounded
from benchmarks.embed_turns import num_threads_or_all
from realm_core.errors import RealmError, UsageError
from realm_core.storage.files import Store

if TYPE_CHECKING:
    from benchmarks.embed_blocks import Blocks
    from realm_core.storage.block_store import CorpusManifest

NUM_BLOCKS, ROWS_PER_PART = 20_480, 2_560
SHORTEST_TOKENS, LONGEST_TOKENS = 40, 60
WARM_UP_ROWS = 64
QUICK = {"blocks": 256, "rows_per_part": 64, "rounds": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What both sides do."""

    store_url: str
    corpus: CorpusManifest
    encoder_digest: str
    device: str
    precision: str
    num_threads: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """One side of one round."""

    seconds: float
    start_seconds: float
    """Of process, Ray and model."""


def main() -> None:
    """Measures and prints."""
    options = _options()
    print_last_line(lambda: run(options))


def _options() -> argparse.Namespace:
    parser = benchmark_parser("embed_overhead", __doc__)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--blocks", type=int, default=NUM_BLOCKS)
    parser.add_argument("--rows-per-part", type=int, default=ROWS_PER_PART)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of the engine; by default the number of cores")
    parser.add_argument("--quick", action="store_true", help="few blocks, to see that everything runs")
    options = parser.parse_args()
    if options.quick:
        parser.set_defaults(**QUICK)
        options = parser.parse_args()
    require_positive(parser, options, "blocks", "rows_per_part", "rounds", "threads")
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints the table, and returns the last line.

    Raises:
        RealmError: no data, no weights, or a side that failed.
    """
    threads = num_threads_or_all(options.threads)
    with tempfile.TemporaryDirectory(prefix="realm-overhead-") as folder:
        task, num_tokens = _prepare(Store(folder), options, threads)
        bare: list[Timed] = []
        job: list[Timed] = []
        sides = [("bare engine", _bare, bare), ("job", _job, job)]
        for number in range(options.rounds):
            for name, measure, timed in sides if number % 2 == 0 else reversed(sides):
                timed.append(measure(task))
                _say(f"round {number + 1} of {options.rounds}: {name} {timed[-1].seconds:.1f} s")
        num_bytes = sum(path.stat().st_size for path in (Path(folder) / "embeddings").glob("*.parquet"))
    num_blocks = task.corpus.num_blocks
    print(
        f"{num_blocks:,} blocks of {num_tokens / num_blocks:.0f} tokens in {len(task.corpus.parts)} parts, "
        f"all-MiniLM-L6-v2, {options.precision} on {options.device}, {threads} threads; "
        f"{num_bytes / 1e6:.1f} MB of embeddings written"
    )
    print(_table(bare, job))
    if options.quick:
        print("--quick: few blocks, to see that everything runs. THE OVERHEAD MEANS NOTHING.")
    return _summary(bare, job) | {"num_blocks": num_blocks, "threads": threads, "precision": options.precision}


def overheads(bare: list[Timed], job: list[Timed]) -> list[float]:
    """Job / bare - 1, round by round."""
    return [ours.seconds / theirs.seconds - 1 for theirs, ours in zip(bare, job, strict=True)]


def chosen_sentences(blocks: Blocks, num_blocks: int) -> Blocks:
    """The first so many sentences of 40 to 60 tokens, each text once.

    Raises:
        UsageError: there are fewer.
    """
    fits_R = (blocks.lengths_R >= SHORTEST_TOKENS) & (blocks.lengths_R <= LONGEST_TOKENS)
    by_text = {blocks.bodies[row]: row for row in np.flatnonzero(fits_R)[::-1].tolist()}
    rows = sorted(by_text.values())[:num_blocks]
    if len(rows) < num_blocks:
        raise UsageError(
            where="--blocks",
            found=str(num_blocks),
            expected=f"at most {len(rows)}, the sentences of {SHORTEST_TOKENS} to {LONGEST_TOKENS} tokens",
            action="Ask for fewer blocks, or give --data with more text.",
        )
    return blocks.take(rows)


def _prepare(store: Store, options: argparse.Namespace, threads: int) -> tuple[Task, int]:
    from realm_core.modeling.checkpoints import load_encoder
    from realm_core.storage.encoder_store import put_encoder

    encoder = load_encoder(require_minilm(), seed=0)
    sentences = sentence_blocks(
        read_documents(options.data), encoder.tokenizer, longest_tokens=encoder.config.max_position_embeddings
    )
    blocks = chosen_sentences(sentences, options.blocks)
    task = Task(
        store_url=store.url,
        corpus=write_corpus(store, blocks, rows_per_part=options.rows_per_part),
        encoder_digest=put_encoder(store, encoder),
        device=options.device,
        precision=options.precision,
        num_threads=threads,
    )
    return task, int(blocks.lengths_R.sum())


def _bare(task: Task) -> Timed:
    """In a process of its own, as the actor is."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_encode_all, args=(task, sender))
    process.start()
    sender.close()
    try:
        timed: Timed = receiver.recv()
    except EOFError as error:
        process.join()
        raise RealmError(
            where="the bare engine",
            found=f"a process that ended with exit code {process.exitcode}",
            expected="its time",
            action="Look at what it printed.",
        ) from error
    process.join()
    return timed


def _encode_all(task: Task, sender: Any) -> None:  # noqa: ANN401 - a connection
    from realm_core.engines.loading import StoreEngineLoader
    from realm_core.storage.block_store import read_part

    began, store = time.perf_counter(), Store(task.store_url)
    engine = StoreEngineLoader(device=task.device, threads=task.num_threads).load(
        store, task.encoder_digest, task.precision
    )
    parts = []
    for part in task.corpus.parts:
        table = read_part(store, part, ["title_token_ids", "body_token_ids"])
        parts.append(tuple(_token_lists(table[name]) for name in table.column_names))
    engine.encode(parts[0][0][:WARM_UP_ROWS], parts[0][1][:WARM_UP_ROWS])
    started = time.perf_counter()
    for titles, bodies in parts:
        engine.encode(titles, bodies)
    sender.send(Timed(seconds=time.perf_counter() - started, start_seconds=started - began))


def _token_lists(column: Any) -> list[np.ndarray]:  # noqa: ANN401 - pyarrow is untyped
    combined = column.combine_chunks()
    return np.split(combined.flatten().to_numpy(), np.cumsum(combined.value_lengths().to_numpy())[:-1])


def _job(task: Task) -> Timed:
    from cluster.embedding import EmbeddingPool
    from cluster.resources import EmbeddingPlan
    from cluster.session import ray_session
    from realm_core.engines.loading import StoreEngineLoader

    gpus = 1.0 if task.device == "cuda" else 0.0
    plan = EmbeddingPlan(
        num_workers=1, cpus=float(min(task.num_threads, os.cpu_count() or 1)), gpus=gpus, threads=task.num_threads
    )
    loader = StoreEngineLoader(device=task.device, threads=task.num_threads)
    _forget_embeddings(task)
    began = time.perf_counter()
    with ray_session():
        pool = EmbeddingPool(task.store_url, plan, loader, precision=task.precision)
        try:
            pool.start()
            # loads the engine and warms it up, as the bare one is
            pool.encode_queries([list(range(1000, 1040))] * WARM_UP_ROWS, task.encoder_digest)
            started = time.perf_counter()
            result = pool.embed(task.corpus.parts, task.encoder_digest)
            seconds = time.perf_counter() - started
        finally:
            pool.close()
    assert result.num_made == len(task.corpus.parts), "every part was made anew"
    return Timed(seconds=seconds, start_seconds=started - began)


def _forget_embeddings(task: Task) -> None:
    for path in (Path(task.store_url) / "embeddings").glob("*"):
        path.unlink()


def _table(bare: list[Timed], job: list[Timed]) -> str:
    heads = ("round", "bare s", "job s", "overhead", "bare start s", "job start s")
    rows = [
        (
            str(number + 1),
            f"{theirs.seconds:.2f}",
            f"{ours.seconds:.2f}",
            f"{overhead:+.1%}",
            f"{theirs.start_seconds:.1f}",
            f"{ours.start_seconds:.1f}",
        )
        for number, (theirs, ours, overhead) in enumerate(zip(bare, job, overheads(bare, job), strict=True))
    ]
    return aligned([heads, *rows])


def _summary(bare: list[Timed], job: list[Timed]) -> dict[str, Any]:
    return {
        "job_overhead": rounded(statistics.median(overheads(bare, job))),
        "job_overheads": [rounded(overhead) for overhead in overheads(bare, job)],
        "bare_seconds": [rounded(timed.seconds) for timed in bare],
        "job_seconds": [rounded(timed.seconds) for timed in job],
        "job_start_seconds": [rounded(timed.start_seconds) for timed in job],
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
