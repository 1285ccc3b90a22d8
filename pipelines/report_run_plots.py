"""Plots of how fast a run went: tokens and ready batches by step, blocks and overlap by refresh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.report_plots import BLUE, MUTED, ORANGE, TALL_INCHES, mean_window, running_mean, svg
from pipelines.telemetry import blocks_per_second, tokens_per_second

Row = Mapping[str, Any]


def throughput(rows: Sequence[Row]) -> str:
    """Above, tokens per second of training; below, how many batches were ready when the trainer asked for one."""

    def draw(figure: Any) -> None:  # noqa: ANN401 - matplotlib is untyped
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        steps, rates = [row["step"] for row in rows], [tokens_per_second(row) for row in rows]
        above.plot(steps, rates, color=BLUE, linewidth=0.7, alpha=0.45)
        above.plot(steps, running_mean(rates, mean_window(len(rows))), color=BLUE, linewidth=2.2)
        above.set_ylabel("tokens/s")
        above.set_ylim(bottom=0)
        below.step(steps, [row["batches_ready"] for row in rows], where="mid", color=ORANGE, linewidth=1.3)
        below.set(ylim=(-0.1, None), xlabel="training step", ylabel="ready")

    return svg("throughput", draw, height=TALL_INCHES)


def refresh_rates(refreshes: Sequence[Row], *, width: float) -> str:
    """Of each live refresh: above, blocks embedded per second; below, overlap@10 with the snapshot before."""

    def draw(figure: Any) -> None:  # noqa: ANN401
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1))
        places = range(len(refreshes))
        above.bar(places, [blocks_per_second(row) or 0.0 for row in refreshes], color=ORANGE, width=0.6)
        above.set_ylabel("blocks/s")
        overlaps = [(place, row.get("overlap_at_10")) for place, row in zip(places, refreshes, strict=True)]
        known = [(place, overlap) for place, overlap in overlaps if overlap is not None]
        below.plot(*zip(*known, strict=True), "o-", color=BLUE) if known else below.axhline(0, color=MUTED)
        below.set(ylim=(0, 1.05), ylabel="overlap@10", xlabel="training step of the refresh's encoder")
        below.set_xticks(places, [str(row["step"]) for row in refreshes])

    return svg(f"refresh-rates-{width:.0f}", draw, width=width, height=TALL_INCHES)
