"""What int8 and bf16 cost in recall: `python -m benchmarks.embed_recall [--all-articles] [--quick]`.

Real weights: all-MiniLM-L6-v2, [CLS] through a random projection of a fixed seed. The corpus is all paragraphs of the
44 validation articles of SQuAD, one block each, or with `--all-articles` those of all 442; the queries are the 8,533
validation questions, always in fp32. A question counts as answered at 5 if its own paragraph is among the first 5.
The last line is JSON: `int8_recall_change` and `bf16_recall_change` are points of recall@5, fp32 minus the other.

Shapes: B questions, R blocks, D projection.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.command import benchmark_parser, print_last_line, require_positive
from benchmarks.embed_blocks import Blocks, make_blocks, read_documents, read_json_lines, without_limits
from benchmarks.embed_engines import PRECISIONS, load_engine, why_not
from benchmarks.embed_prepare import NUM_CALIBRATION, require_minilm
from benchmarks.embed_tables import aligned, likeness

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from benchmarks.embed_blocks import Document

CUTOFFS = (1, 5, 20)
HEADLINE_CUTOFF = 5
QUESTIONS_PER_PRODUCT = 512
MAX_QUESTION_TOKENS = 62
"""64 with [CLS] and [SEP]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecallTask:
    """Blocks, questions, and which block each question was asked about."""

    blocks: Blocks
    question_ids: list[np.ndarray]
    own_rows_B: np.ndarray


def main() -> None:
    """Measures and prints."""
    options = _options()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    print_last_line(lambda: run(options))


def _options() -> argparse.Namespace:
    parser = benchmark_parser("embed_recall", __doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--all-articles", action="store_true", help="search the paragraphs of all 442 articles")
    parser.add_argument("--quick", action="store_true", help="one article, to see that everything runs")
    options = parser.parse_args()
    require_positive(parser, options, "threads")
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints the table, and returns the last line.

    Raises:
        RealmError: data or weights are not there.
    """
    folder = require_minilm()
    from realm_core.modeling.checkpoints import load_tokenizer

    task = make_task(
        read_documents(options.data),
        list(read_json_lines(options.data, "squad/questions-valid.jsonl.gz")),
        load_tokenizer(folder),
        all_articles=options.all_articles,
        num_articles=1 if options.quick else None,
    )
    found = _embeddings(task, folder, options.device)
    recalls: dict[str, dict[int, float]] = {
        name: _recalls(found["queries"], found[name], task) for name in PRECISIONS if name in found
    }
    print(f"recall of {len(task.own_rows_B):,} questions over {len(task.blocks):,} paragraphs, all-MiniLM-L6-v2")
    print(_table(recalls, found))
    return _summary(recalls, found, task) | ({"quick": True} if options.quick else {})


def make_task(
    documents: list[Document],
    questions: list[dict[str, Any]],
    tokenizer: Tokenizer,
    *,
    all_articles: bool,
    num_articles: int | None,
) -> RecallTask:
    """The questions about the first `num_articles` articles that have any, and the paragraphs that are searched."""
    asked = list(dict.fromkeys(question["title"] for question in questions))[:num_articles]
    searched = documents if all_articles else [document for document in documents if document.title in set(asked)]
    blocks = make_blocks(searched, tokenizer, "paragraphs")
    first_rows, num_rows = {}, 0
    for document in searched:
        first_rows[document.title] = num_rows
        num_rows += len(document.paragraphs)
    assert num_rows == len(blocks), "every paragraph has a word"
    own = [question for question in questions if question["title"] in set(asked)]
    encodings = without_limits(tokenizer).encode_batch([q["question"] for q in own], add_special_tokens=False)
    return RecallTask(
        blocks=blocks,
        question_ids=[np.array(encoding.ids[:MAX_QUESTION_TOKENS], dtype=np.uint16) for encoding in encodings],
        own_rows_B=np.array([first_rows[question["title"]] + question["paragraph"] for question in own]),
    )


def recall_at(queries_BD: np.ndarray, blocks_RD: np.ndarray, own_rows_B: np.ndarray, cutoff: int) -> float:
    """Share of the queries with fewer than `cutoff` blocks of a greater inner product than their own."""
    hits = 0
    for start in range(0, len(queries_BD), QUESTIONS_PER_PRODUCT):
        own_B = own_rows_B[start : start + QUESTIONS_PER_PRODUCT]
        relevance_BR = queries_BD[start : start + QUESTIONS_PER_PRODUCT] @ blocks_RD.T
        own_relevance_B1 = relevance_BR[np.arange(len(own_B)), own_B][:, None]
        hits += int(((relevance_BR > own_relevance_B1).sum(axis=1) < cutoff).sum())
    return hits / len(queries_BD)


def _embeddings(task: RecallTask, minilm: Path, device: str) -> dict[str, np.ndarray]:
    """Of the blocks by precision, and of `queries`."""
    found: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory(prefix="realm-recall-") as name:
        encoder, calibration = _saved_encoder(minilm, Path(name)), Path(name) / "calibration.json"
        rows = np.random.default_rng(0).permutation(len(task.blocks))[:NUM_CALIBRATION]
        task.blocks.take(rows).save(calibration)
        for precision in PRECISIONS:
            reason = why_not(precision, device)
            if reason is not None:
                print(f"left out: {precision} ({reason})", file=sys.stderr)
                continue
            print(f"embedding in {precision}", file=sys.stderr, flush=True)
            engine, _ = load_engine(encoder, calibration, device, precision)
            found[precision] = engine.encode(task.blocks.title_ids, task.blocks.body_ids)
            if precision == "fp32":
                found["queries"] = engine.encode_queries(task.question_ids)
    return found


def _saved_encoder(minilm: Path, folder: Path) -> Path:
    from realm_core.modeling.checkpoints import load_encoder, save_encoder

    encoder = load_encoder(minilm, seed=0)
    save_encoder(encoder.embedder, encoder.tokenizer, folder / "encoder")
    return folder / "encoder"


def _recalls(queries_BD: np.ndarray, blocks_RD: np.ndarray, task: RecallTask) -> dict[int, float]:
    return {cutoff: recall_at(queries_BD, blocks_RD, task.own_rows_B, cutoff) for cutoff in CUTOFFS}


def _table(recalls: dict[str, dict[int, float]], found: dict[str, np.ndarray]) -> str:
    heads = ("precision", *(f"recall@{cutoff}" for cutoff in CUTOFFS), "smallest cosine", "mean")
    lines: list[tuple[str, ...]] = [heads]
    for precision, own in recalls.items():
        like = likeness(found[precision], found["fp32"])
        cosines = (f"{like.smallest_cosine:.6f}", f"{like.mean_cosine:.6f}") if like else ("-", "-")
        lines.append((precision, *(f"{own[cutoff]:.4f}" for cutoff in CUTOFFS), *cosines))
    return aligned(lines)


def _summary(recalls: dict[str, dict[int, float]], found: dict[str, np.ndarray], task: RecallTask) -> dict[str, Any]:
    reference = recalls["fp32"][HEADLINE_CUTOFF]
    summary: dict[str, Any] = {}
    for precision in PRECISIONS[1:]:
        own = recalls.get(precision)
        like = likeness(found[precision], found["fp32"]) if own else None
        change = 100 * (reference - own[HEADLINE_CUTOFF]) if own else None
        summary[f"{precision}_recall_change"] = None if change is None else round(change, 3)
        summary[f"{precision}_smallest_cosine"] = like.smallest_cosine if like else None
    at = {name: {str(cutoff): round(value, 5) for cutoff, value in own.items()} for name, own in recalls.items()}
    return summary | {"recall_at": at, "num_questions": len(task.own_rows_B), "num_blocks": len(task.blocks)}


if __name__ == "__main__":
    main()
