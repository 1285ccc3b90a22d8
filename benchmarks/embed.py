"""Speed of the embedder against its peers: `python -m benchmarks.embed [--device cpu|cuda] [--blocks N] [--quick]`.

Every side embeds the same blocks with the same BERT-base-sized weights: real SQuAD paragraphs, one block each
(`paragraphs`, the headline), and the same text in whole sentences up to 288 tokens (`packed`, as ORQA cuts Wikipedia).
Each side is a process of its own, loaded once; they take turns, one slice of the blocks per round, so that a noisy
machine hits all alike. Ratios and shares are medians of those of the rounds.

Two more measurements follow, unless left out: what int8 and bf16 cost in recall with real weights
(`benchmarks.embed_recall`), and what the job costs over the bare engine (`benchmarks.embed_overhead`).

The last line is JSON: keys without a suffix are of `paragraphs`, with `_packed` of the other form; what could not be
measured is null, with its reason in `left_out`. About half an hour on two cores; `make peers` first.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.command import benchmark_parser, print_last_line, require_positive
from benchmarks.embed_measure import measure, say
from benchmarks.embed_prepare import load_bert_tokenizer, minilm_folder, prepare, save_random_encoder
from benchmarks.embed_report import QUICK_WARNING, Setting, print_tables, summary_of
from benchmarks.embed_turns import Sides, find_sides, last_json_line, num_threads_or_all
from realm_core.errors import UsageError

NUM_BLOCKS = {"cpu": 576, "cuda": 18_000}
SLOW_SHARE = 4
"""What is slow and of a rate that few blocks show embeds every fourth block."""


def main() -> None:
    """Measures and prints."""
    options = _options()
    print_last_line(lambda: run(options))


def _options() -> argparse.Namespace:
    parser = benchmark_parser("embed", __doc__)
    parser.add_argument("--blocks", type=int, help=f"of each form, over all rounds; by default {NUM_BLOCKS}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the draw of blocks")
    parser.add_argument("--threads", type=int, help="of every side; by default the number of cores")
    parser.add_argument("--sides", nargs="+", help="beginnings of the sides to measure; by default all")
    parser.add_argument(
        "--activation", choices=("gelu", "gelu_new"), default="gelu", help="BERT's, or published REALM's"
    )
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json of uncased BERT; by default all-MiniLM-L6-v2's")
    parser.add_argument("--no-recall", action="store_true", help="leave the recall of int8 and bf16 out")
    parser.add_argument("--no-job", action="store_true", help="leave the job's overhead out")
    parser.add_argument("--quick", action="store_true", help="tiny models, to see that everything runs")
    options = parser.parse_args()
    require_positive(parser, options, "blocks", "rounds", "threads")
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints the tables, and returns the last line.

    Raises:
        RealmError: a side died, or the data are not there.
    """
    threads = num_threads_or_all(options.threads)
    _warn(options)
    sides = _chosen(find_sides(options.device, slow_share=SLOW_SHARE), options.sides)
    with tempfile.TemporaryDirectory(prefix="realm-embed-") as name:
        folder = Path(name)
        tokenizer = load_bert_tokenizer(options.tokenizer)
        config = save_random_encoder(folder, tokenizer, activation=options.activation, is_quick=options.quick)
        num_blocks = options.blocks or (48 if options.quick else NUM_BLOCKS[options.device])
        corpora = prepare(
            folder,
            data=options.data,
            tokenizer=tokenizer,
            num_blocks=num_blocks,
            num_rounds=options.rounds,
            seed=options.seed,
        )
        measured = measure(folder, sides, corpora, config, device=options.device, num_threads=threads)
    setting = Setting(device=options.device, num_threads=threads, activation=options.activation, is_quick=options.quick)
    print_tables(setting, corpora, measured, sides.left_out)
    others = _recall(options, sides, threads) | _overhead(options, sides, threads)
    return summary_of(setting, measured) | others | {"left_out": sides.left_out}


def _warn(options: argparse.Namespace) -> None:
    if options.quick:
        say(QUICK_WARNING)
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores / 4:
        say(f"the machine is busy (load {load:.1f} on {cores} cores): times will be off")


def _chosen(sides: Sides, beginnings: list[str] | None) -> Sides:
    if beginnings is None:
        return sides
    wanted = tuple(beginnings)
    known = [*(spec.side for spec in sides.present), *sides.left_out]
    unknown = [name for name in wanted if not any(side.startswith(name) for side in known)]
    if unknown:
        raise UsageError(
            where="--sides",
            found=", ".join(unknown),
            expected="beginnings of " + ", ".join(known),
            action="Correct the name.",
        )
    present = [spec for spec in sides.present if spec.side.startswith(wanted)]
    others = {spec.side: "not asked for" for spec in sides.present if spec not in present}
    return Sides(present=present, left_out=sides.left_out | others)


def _recall(options: argparse.Namespace, sides: Sides, threads: int) -> dict[str, Any]:
    nothing = {"int8_recall_change": None, "bf16_recall_change": None}
    if options.no_recall:
        reason = "--no-recall"
    elif minilm_folder() is None:
        reason = "no package with real weights"
    elif not (options.data / "squad").is_dir():
        reason = "no questions in --data"
    else:
        flags = ["--device", options.device, "--data", str(options.data), *(["--quick"] if options.quick else [])]
        found = last_json_line("benchmarks.embed_recall", *flags, num_threads=threads)
        return {name: found.get(name) for name in nothing} | {"recall": found}
    sides.left_out["recall"] = reason
    return nothing


def _overhead(options: argparse.Namespace, sides: Sides, threads: int) -> dict[str, Any]:
    if options.no_job:
        reason = "--no-job"
    elif importlib.util.find_spec("ray") is None:
        reason = "no Ray"
    else:
        flags = ["--device", options.device, "--data", str(options.data), "--threads", str(threads)]
        flags += ["--quick"] if options.quick else []
        found = last_json_line("benchmarks.embed_overhead", *flags, num_threads=threads)
        return {"job_overhead": found["job_overhead"], "job": found}
    sides.left_out["job"] = reason
    return {"job_overhead": None}


if __name__ == "__main__":
    main()
