"""The ablations of REALM's table 2 in small, on SQuAD's articles: what each part of pre-training does for retrieval.

A small BERT is trained by masked language modeling alone, warmed up by the inverse cloze task (a warm-up per seed),
and pre-trained as REALM from there, once for each row and seed. SQuAD's questions only measure: zero-shot recall@5
over all paragraphs. Everything runs in this process, without Ray or FAISS; losses, masks, examples and models are the
product's (`realm_core`). Each result is kept in --work when it is done, and a rerun goes on from there.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.ablation_corpus import read_corpus
from benchmarks.ablation_plot import plot_curves
from benchmarks.ablation_presets import ICT, ICT_LABEL, ICT_PAPER, PRESETS, ROWS, Preset, with_changes
from benchmarks.ablation_reader import new_config, train_reader
from benchmarks.ablation_rows import Corpus, MemorySnapshot, pretrain_row
from benchmarks.ablation_start import embedder_of, warm_up
from benchmarks.ablation_store import AblationFolder
from benchmarks.command import benchmark_parser, print_last_line
from benchmarks.cpu_memory import keep_freed_memory
from realm_core.modeling.checkpoints import load_tokenizer
from realm_core.modeling.knowledge_aug_encoder import RealmKnowledgeAugEncoder
from realm_core.modeling.weights import resolve_directory
from realm_core.training.featurization import SpecialTokens

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from tokenizers import Tokenizer

    from realm_core.modeling.configuration import RealmConfig
    from realm_core.modeling.embedder import RealmEmbedder

MLM_SEED = 0


class Ablation:
    """The stages and rows of a preset, in order; what is done already is read, not done again."""

    def __init__(self, preset: Preset, corpus: Corpus, config: RealmConfig, folder: AblationFolder) -> None:
        self._preset, self._corpus, self._config, self._folder = preset, corpus, config, folder

    def run(self, rows: list[str]) -> dict[str, list[dict[str, Any]]]:
        """Results of each row by name, one per seed; seeds are the outer loop, so a stopped run has whole seeds."""
        self._masked_language_model()
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in (ICT, *rows)}
        for seed in self._preset.seeds:
            results[ICT].append(self._warm_up(seed))
            for name in rows:
                results[name].append(self._row(name, seed))
        return results

    def _masked_language_model(self) -> None:
        if self._folder.result("mlm") is None:
            started = time.monotonic()
            encoder = self._new_encoder()
            losses = train_reader(
                encoder,
                self._corpus.blocks,
                self._preset,
                self._corpus.special,
                device=self._corpus.device,
                say=lambda text: say(f"mlm: {text}"),
            )
            self._folder.write("mlm", {"losses": losses, "seconds": time.monotonic() - started}, encoder)
            say(f"masked language model: loss {fmean(losses[-50:]):.3f} after {len(losses)} steps")

    def _warm_up(self, seed: int) -> dict[str, Any]:
        name = f"{ICT}-seed-{seed}"
        done = self._folder.result(name)
        if done is None:
            started = time.monotonic()
            embedder = embedder_of(self._start_encoder(), seed=seed)
            before = self._recall(embedder)
            accuracies = warm_up(
                embedder,
                self._corpus.blocks,
                self._preset,
                self._corpus.special,
                seed=seed,
                device=self._corpus.device,
                say=lambda text: say(f"{name}: {text}"),
            )
            done = {
                "recall_at_5": self._recall(embedder),
                "recall_at_5_before": before,
                "accuracies": accuracies,
                "seconds": time.monotonic() - started,
            }
            self._folder.write(name, done, embedder)
            say(f"{name}: recall@5 {before:.3f} -> {done['recall_at_5']:.3f}, accuracy {fmean(accuracies[-20:]):.3f}")
        return done

    def _row(self, name: str, seed: int) -> dict[str, Any]:
        result_name = f"{name}-seed-{seed}"
        done = self._folder.result(result_name)
        if done is None:
            encoder = self._start_encoder()
            embedder = embedder_of(encoder, seed=seed)
            self._folder.load(f"{ICT}-seed-{seed}", embedder)
            done = pretrain_row(
                ROWS[name],
                self._corpus,
                self._preset,
                embedder,
                encoder,
                seed=seed,
                say=lambda text: say(f"{result_name}: {text}"),
            )
            self._folder.write(result_name, done)
        return done

    def _recall(self, embedder: RealmEmbedder) -> float:
        corpus = self._corpus
        snapshot = MemorySnapshot(corpus.blocks, embedder, corpus.special, step=0, device=corpus.device)
        return snapshot.recall_at_5(corpus.blocks, corpus.questions)

    def _new_encoder(self) -> RealmKnowledgeAugEncoder:
        torch.manual_seed(MLM_SEED)
        return RealmKnowledgeAugEncoder(self._config)

    def _start_encoder(self) -> RealmKnowledgeAugEncoder:
        encoder = self._new_encoder()
        self._folder.load("mlm", encoder)
        return encoder


def summary(results: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Mean and standard deviation (None for one seed) of recall@5 over seeds, by row."""
    values = {name: [result["recall_at_5"] for result in of_seeds] for name, of_seeds in results.items()}
    return {
        "recall_at_5": {name: fmean(of_seeds) for name, of_seeds in values.items()},
        "recall_at_5_std": {name: stdev(v) if len(v) > 1 else None for name, v in values.items()},
    }


def print_results(results: Mapping[str, list[dict[str, Any]]]) -> None:
    """The table: recall@5 beside the paper's, and the gain over the same seed's warm-up."""
    found = summary(results)
    print(f"{'row':<28}{'recall@5':>10}{'std':>8}{'gain':>8}{'std':>8}{'utility':>9}{'paper':>8}  seeds")
    starts = [start["recall_at_5"] for start in results[ICT]]
    for name, of_seeds in results.items():
        label, paper = (ICT_LABEL, ICT_PAPER) if name == ICT else (ROWS[name].label, ROWS[name].paper_recall_at_5)
        gains = [result["recall_at_5"] - start for result, start in zip(of_seeds, starts, strict=True)]
        cells = [found["recall_at_5"][name], found["recall_at_5_std"][name], fmean(gains), _std(gains)]
        shown = [_cell(cell) for cell in cells]
        utility = _cell(_last_utility(of_seeds), "+.3f")
        print(
            f"{label:<28}{shown[0]:>10}{shown[1]:>8}{shown[2]:>8}{shown[3]:>8}{utility:>9}"
            f"{_cell(paper, '.1f'):>8}  {len(of_seeds)}"
        )


def _last_utility(of_seeds: list[dict[str, Any]]) -> float | None:
    """Mean retrieval utility of the last tenth of the steps; None where there is no null document, or no step."""
    curves = [result.get("retrieval_utilities") for result in of_seeds]
    known = [curve[-max(1, len(curve) // 10) :] for curve in curves if curve]
    return fmean(value for curve in known for value in curve) if known else None


def _std(values: list[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _cell(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else format(value, form)


def say(text: str) -> None:
    """Progress, on standard error."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = benchmark_parser("ablation", __doc__)
    parser.add_argument("--preset", choices=tuple(PRESETS), help="size; by default that of the device")
    parser.add_argument("--encoder", help="directory with the tokenizer (uncased BERT); by default the demo's")
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=list(ROWS), help="beside ict, the warm-up")
    parser.add_argument("--seeds", nargs="+", type=int, help="by default the preset's")
    parser.add_argument("--set", nargs="+", metavar="SIZE=NUMBER", default=[], help="change sizes: realm_steps=800")
    parser.add_argument("--work", type=Path, default=Path("build/ablation"), help="folder of what is done")
    parser.add_argument("--plot", type=Path, help="file of the plot; by default in the folder of what is done")
    return parser.parse_args(arguments)


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Runs what is not done, prints the table, draws the plot."""
    name = options.preset or {"cpu": "cpu", "cuda": "gpu"}[options.device]
    preset = with_changes(PRESETS[name], options.set)
    preset = replace(preset, seeds=tuple(options.seeds)) if options.seeds else preset
    started = time.monotonic()
    if options.device == "cpu":
        keep_freed_memory()
    tokenizer = load_tokenizer(resolve_directory(options.encoder or _demo_encoder()))
    special = special_tokens_of(tokenizer)
    blocks, questions = read_corpus(options.data, tokenizer, preset)
    say(f"{len(blocks):,} blocks, {len(questions):,} questions; preset {name}, {preset.digest}")
    corpus = Corpus(blocks, questions, special, options.device)
    folder = AblationFolder(options.work / f"{name}-{preset.digest}")
    config = new_config(preset, tokenizer.get_vocab_size(with_added_tokens=True), special.pad_id)
    results = Ablation(preset, corpus, config, folder).run(options.rows)
    print_results(results)
    plot = options.plot or folder.folder / "ablation.png"
    plot_curves(results, plot)
    say(f"plot: {plot}")
    return {
        **summary(results),
        "recall_at_5_of_seeds": {name: [r["recall_at_5"] for r in of_seeds] for name, of_seeds in results.items()},
        "preset": name,
        "seeds": list(preset.seeds),
        "seconds": round(time.monotonic() - started, 1),
    }


def _demo_encoder() -> str:
    from pipelines.demo_inputs import encoder_path

    return encoder_path()


def special_tokens_of(tokenizer: Tokenizer) -> SpecialTokens:
    """The marker tokens of a vocabulary."""
    cls_id, sep_id, mask_id, pad_id = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]", "[MASK]", "[PAD]"))
    return SpecialTokens(cls_id=cls_id, sep_id=sep_id, mask_id=mask_id, pad_id=pad_id)


if __name__ == "__main__":
    chosen = parse()
    print_last_line(lambda: main(chosen))
