"""What `benchmarks.embed` makes of its measurements: rates, shares, ratios, tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One side over its blocks of one round."""

    side: str
    form: str
    round: int
    num_rows: int
    num_tokens: int
    num_flops: float
    """That the rows need, see `realm_core.engines.flops`; what a side computes for nothing does not count."""
    seconds: float
    peak: float | None = None
    """Operations per second of the device's matrix products in this side's arithmetic, measured right after."""

    @property
    def blocks_per_second(self) -> float:
        """Rows by seconds."""
        return self.num_rows / self.seconds

    @property
    def flops_per_second(self) -> float:
        """Needed operations by seconds."""
        return self.num_flops / self.seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Likeness:
    """How a side's embeddings compare with those of the plain forward pass."""

    smallest_cosine: float
    mean_cosine: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A side in the table of a form; rates are medians over the rounds, ratios medians of each round's ratio."""

    side: str
    name: str
    blocks_per_second: float
    tokens_per_second: float
    flops_per_second: float
    share_of_peak: float | None
    ratio_to_transformers: float | None
    ratio_to_sentence_transformers: float | None
    likeness: Likeness | None
    largest_difference: float | None
    """Between a row's embeddings in two orders and companies; 0 is the same bits."""


def runs_of(runs: Sequence[Run], side: str, form: str) -> list[Run]:
    """In the order of the rounds."""
    return sorted((run for run in runs if (run.side, run.form) == (side, form)), key=lambda run: run.round)


def median_ratio(ours: Sequence[Run], theirs: Sequence[Run]) -> float | None:
    """Of blocks per second, ours / theirs, paired by round: what slows a round down slows both. None without a pair."""
    by_round = {run.round: run for run in theirs}
    ratios = [run.blocks_per_second / by_round[run.round].blocks_per_second for run in ours if run.round in by_round]
    return statistics.median(ratios) if ratios else None


def share_of_peak(runs: Sequence[Run]) -> float | None:
    """Median over the rounds of needed operations per second by that round's peak; None where none was measured."""
    shares = [run.flops_per_second / run.peak for run in runs if run.peak]
    return statistics.median(shares) if shares else None


def likeness(embeddings_RD: np.ndarray, reference_RD: np.ndarray) -> Likeness | None:
    """Cosine row by row; None where the two are of different widths, hence of different models."""
    if embeddings_RD.shape != reference_RD.shape:
        return None
    ours, theirs = embeddings_RD.astype(np.float64), reference_RD.astype(np.float64)
    norms_R = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine_R = (ours * theirs).sum(axis=1) / norms_R
    return Likeness(smallest_cosine=float(cosine_R.min()), mean_cosine=float(cosine_R.mean()))


def mean_cosine_between_rows(embeddings_RD: np.ndarray) -> float | None:
    """Of different rows: how much a cosine says. None of less than two rows."""
    if len(embeddings_RD) < 2:
        return None
    units_RD = embeddings_RD / np.linalg.norm(embeddings_RD, axis=1, keepdims=True)
    num_rows, total_D = len(units_RD), units_RD.astype(np.float64).sum(axis=0)
    return float((total_D @ total_D - num_rows) / (num_rows * (num_rows - 1)))


def table(rows: Sequence[Row]) -> str:
    """Plain text, one line a side."""
    heads = (
        "side",
        "blocks/s",
        "tokens/s",
        "GFLOP/s",
        "of peak",
        "x transf.",
        "x sent.-tr.",
        "min cosine",
        "mean",
        "bits",
    )
    return aligned([heads, *(_cells(row) for row in rows)])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, the first to the left and the others to the right, the head underlined."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    return "\n".join([texts[0], "-" * len(texts[0]), *texts[1:]])


def rounded(value: float | None, digits: int = 4) -> float | None:
    """To so many significant digits; None stays."""
    return None if value is None else float(f"{value:.{digits}g}")


def _cells(row: Row) -> tuple[str, ...]:
    like = row.likeness
    return (
        row.name,
        f"{row.blocks_per_second:,.3g}" if row.blocks_per_second < 100 else f"{row.blocks_per_second:,.0f}",
        f"{row.tokens_per_second:,.0f}",
        f"{row.flops_per_second / 1e9:,.0f}",
        _or_dash(row.share_of_peak, "{:.0%}"),
        _or_dash(row.ratio_to_transformers, "{:.2f}"),
        _or_dash(row.ratio_to_sentence_transformers, "{:.2f}"),
        _or_dash(like.smallest_cosine if like else None, "{:.7f}"),
        _or_dash(like.mean_cosine if like else None, "{:.7f}"),
        "same" if row.largest_difference == 0 else _or_dash(row.largest_difference, "{:.0e} off"),
    )


def _or_dash(value: float | None, pattern: str) -> str:
    return "-" if value is None else pattern.format(value)
