"""What `benchmarks.embed` shows: tables, and the last line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.embed_blocks import FORMS
from benchmarks.embed_engines import PRECISIONS
from benchmarks.embed_tables import Row, median_ratio, rounded, runs_of, share_of_peak, table

if TYPE_CHECKING:
    from benchmarks.embed_measure import Measured
    from benchmarks.embed_prepare import Corpus

QUICK_WARNING = "--quick: tiny models and few blocks, to see that everything runs. THE RATIOS MEAN NOTHING."


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What was measured, and on what."""

    device: str
    num_threads: int
    activation: str
    is_quick: bool

    @property
    def headline(self) -> str:
        """The precision that `share_of_peak` and `ratio_vs_sentence_transformers` are of."""
        return "fp32" if self.device == "cpu" else "bf16"

    @property
    def device_name(self) -> str:
        """For people."""
        if self.device == "cpu":
            return f"CPU, {self.num_threads} threads"
        import torch

        return str(torch.cuda.get_device_name())


def print_tables(setting: Setting, corpora: list[Corpus], measured: Measured, left_out: dict[str, str]) -> None:
    """A table per form, then peaks and what was left out."""
    size = "a tiny model (--quick)" if setting.is_quick else f"BERT-base, random weights, {setting.activation}"
    for corpus in corpora:
        lengths_R = np.concatenate([one.lengths_R for one in corpus.slices])
        print(
            f"\n{corpus.form}: {len(lengths_R)} blocks of {corpus.num_blocks:,}, "
            f"{lengths_R.mean():.0f} tokens on average; {size}; {setting.device_name}"
        )
        print(table(_rows(measured, corpus.form)))
    peaks = {side: runs[0].peak for side in measured.names if (runs := runs_of(measured.runs, side, "paragraphs"))}
    shown = [f"{side} {peak / 1e9:,.0f}" for side, peak in peaks.items() if peak]
    print(f"\npeak of large matrix products, first round, GFLOP/s: {', '.join(shown) or 'not measured'}")
    if measured.cosine_between_blocks is not None:
        print(f"cosine is with the plain forward pass; between different blocks {measured.cosine_between_blocks:.4f}")
    for side, reason in left_out.items():
        print(f"left out: {side} ({reason})")
    if setting.is_quick:
        print(QUICK_WARNING)


def _rows(measured: Measured, form: str) -> list[Row]:
    return [_row(measured, side, form) for side in measured.names]


def _row(measured: Measured, side: str, form: str) -> Row:
    runs = runs_of(measured.runs, side, form)
    return Row(
        side=side,
        name=measured.names[side],
        blocks_per_second=float(np.median([run.blocks_per_second for run in runs])),
        tokens_per_second=float(np.median([run.num_tokens / run.seconds for run in runs])),
        flops_per_second=float(np.median([run.flops_per_second for run in runs])),
        share_of_peak=share_of_peak(runs),
        ratio_to_transformers=_ratio(measured, side, "transformers", form),
        ratio_to_sentence_transformers=_ratio(measured, side, "sentence-transformers", form),
        likeness=measured.likeness[side, form],
        largest_difference=measured.differences.get(side),
    )


def _ratio(measured: Measured, side: str, other: str, form: str) -> float | None:
    return median_ratio(runs_of(measured.runs, side, form), runs_of(measured.runs, other, form))


def summary_of(setting: Setting, measured: Measured) -> dict[str, Any]:
    """The last line, but for recall and the job."""
    summary: dict[str, Any] = {}
    for form in FORMS:
        suffix = "" if form == "paragraphs" else f"_{form}"
        values = _summary_of_form(measured, form, headline=setting.headline)
        summary |= {name + suffix: value for name, value in values.items()}
    summary["cosine_between_blocks"] = measured.cosine_between_blocks
    tail = {"device": setting.device_name, "threads": setting.num_threads, "activation": setting.activation}
    return summary | tail | ({"quick": True} if setting.is_quick else {})


def _summary_of_form(measured: Measured, form: str, *, headline: str) -> dict[str, Any]:
    rows = {row.side: row for row in _rows(measured, form)}
    values: dict[str, Any] = {}
    for precision in PRECISIONS:
        row = rows.get(f"ours-{precision}")
        values[f"ratio_{precision}_vs_hf_padded"] = rounded(row.ratio_to_transformers if row else None)
        values[f"ratio_{precision}_vs_sentence_transformers"] = rounded(
            row.ratio_to_sentence_transformers if row else None
        )
        values[f"share_of_peak_{precision}"] = rounded(row.share_of_peak if row else None)
        values[f"smallest_cosine_{precision}"] = row.likeness.smallest_cosine if row and row.likeness else None
        values[f"largest_difference_{precision}"] = row.largest_difference if row else None
    values["ratio_vs_sentence_transformers"] = values[f"ratio_{headline}_vs_sentence_transformers"]
    values["share_of_peak"] = values[f"share_of_peak_{headline}"]
    values["blocks_per_second"] = {side: rounded(row.blocks_per_second) for side, row in rows.items()}
    values["gflops_per_second"] = {side: rounded(row.flops_per_second / 1e9) for side, row in rows.items()}
    return values
