"""The plots of a run's report, as SVG that takes its colours and its font from the page it stands in.

Blue is training and orange is the refresh, everywhere; line style, marker or place says the same once more, so that
nobody needs the colours. The same data give the same bytes.
"""

from __future__ import annotations

import io
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from realm_core.errors import UsageError

Row = Mapping[str, Any]
Span = tuple[float, float]
Draw = Callable[[Any], None]

INK, MUTED, GRID, BLUE, PALE, ORANGE, PAPER = (f"#0{i}f1e{i}" for i in range(1, 8))
"""Stand-ins, each replaced by a variable of the page's style sheet."""
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", BLUE: "blue", PALE: "pale", ORANGE: "orange", PAPER: "paper"}

HALF_PAGE_INCHES = 5.6
FULL_PAGE_INCHES = 12.0
PANEL_INCHES = 2.6
TALL_INCHES = 4.2
NUM_RATE_BINS = 60
NUM_SHARE_BINS = 40
MAX_POINT_LABELS = 12
Z_95 = 1.959964
"""Normal quantile of a two-sided 95 % interval."""

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.borderaxespad": 0.0,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "ytick.left": False,
}


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and the `window - 1` before it; NaN values do not count, NaN where there is no other."""
    seen = [[v for v in values[max(0, i + 1 - window) : i + 1] if not math.isnan(v)] for i in range(len(values))]
    return [fmean(part) if part else math.nan for part in seen]


def wilson_interval(share: float, num_trials: int) -> Span:
    """The 95 % interval of a share seen in `num_trials` trials (Wilson, JASA 1927); no trials give (0, 1)."""
    if num_trials == 0:
        return 0.0, 1.0
    z2 = Z_95**2
    centre = (share + z2 / (2 * num_trials)) / (1 + z2 / num_trials)
    half = Z_95 / (1 + z2 / num_trials) * math.sqrt(share * (1 - share) / num_trials + z2 / (4 * num_trials**2))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def merge_spans(spans: Sequence[Span], *, gap: float) -> list[Span]:
    """The union of spans (start, stop), those at most `gap` apart joined; sorted and disjoint."""
    merged: list[Span] = []
    for start, stop in sorted(spans):
        if merged and start - merged[-1][1] <= gap:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, stop))
    return merged


def swap_steps(steps: Sequence[Row]) -> list[int]:
    """Steps whose batch is the first of another snapshot than the step before."""
    return [row["step"] for last, row in pairwise(steps) if row["snapshot_id"] != last["snapshot_id"]]


def step_span(row: Row) -> Span:
    """When a step began and ended, in seconds since the epoch; it is logged at its end."""
    return row["at_seconds"] - sum(step_seconds(row)), row["at_seconds"]


def step_seconds(row: Row) -> tuple[float, float, float]:
    """Seconds of a step: wait, forward, backward."""
    return row["wait_seconds"], row["forward_seconds"], row["backward_seconds"]


def refresh_stages(row: Row) -> dict[str, Span]:
    """When each stage of a live refresh ran; the last one ends when the snapshot is live."""
    seconds, start, live = row["seconds"], row["started_at_seconds"], row["live_at_seconds"]
    swap_start = live - seconds.get("publish", 0.0) - seconds.get("swap", 0.0)
    return {
        "embed": (start, start + seconds.get("embed", 0.0)),
        "index": (swap_start - seconds.get("index", 0.0), swap_start),
        "swap": (swap_start, live),
    }


def curve(rows: Sequence[Row], name: str, *, phase: str = "training", zero_line: bool = False) -> str:
    """One value of every step of a phase, thin, and its running mean, bold."""

    def draw(figure: Any) -> None:  # noqa: ANN401 - matplotlib is untyped
        axes = figure.subplots()
        if zero_line:
            axes.axhline(0, color=MUTED, linewidth=1)
        _draw_curve(axes, rows, name)
        axes.set_xlabel(f"{phase} step")

    return svg(f"{phase}-{name}", draw)


def _draw_curve(axes: Any, rows: Sequence[Row], name: str) -> None:  # noqa: ANN401
    steps, values = _column(rows, "step"), _column(rows, name)
    window = mean_window(len(rows))
    axes.plot(steps, values, color=BLUE, linewidth=0.7, alpha=0.45, label="each step")
    axes.plot(steps, running_mean(values, window), color=BLUE, linewidth=2.2, label=f"mean of {window} steps")
    _legend(axes, 2)


def mean_window(num_steps: int) -> int:
    """Steps that a running mean takes together: a twentieth of the run, 5 to 200."""
    return min(200, max(5, num_steps // 20))


def warmup_accuracy(rows: Sequence[Row]) -> str:
    """How often the right block was found, for queries whose sentence was removed from it, and for those kept."""

    def draw(figure: Any) -> None:  # noqa: ANN401
        axes = figure.subplots()
        for name, color, line in (("removed", BLUE, "-"), ("kept", ORANGE, (0, (4, 2)))):
            mean = running_mean(_column(rows, f"{name}_accuracy"), mean_window(len(rows)))
            axes.plot(_column(rows, "step"), mean, color=color, linestyle=line, linewidth=2, label=f"sentence {name}")
        axes.set(ylim=(0, 1.03), xlabel="warm-up step")
        _legend(axes, 2)

    return svg("warm-up-accuracy", draw)


def staleness(rows: Sequence[Row]) -> str:
    """Age of the index that each step's candidates came from: in steps above, in seconds below."""

    def draw(figure: Any) -> None:  # noqa: ANN401
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        for axes, name, unit in ((above, "staleness_steps", "steps"), (below, "staleness_seconds", "seconds")):
            axes.plot(_column(rows, "step"), _column(rows, name), color=BLUE, linewidth=1.6)
            _mark_swaps(axes, rows)
            axes.set_ylim(bottom=0)
            axes.set_ylabel(unit)
        below.set_xlabel("training step")
        if swap_steps(rows):
            _legend(above, 1)

    return svg("staleness", draw, height=TALL_INCHES)


def _mark_swaps(axes: Any, rows: Sequence[Row]) -> None:  # noqa: ANN401
    for i, step in enumerate(swap_steps(rows)):
        label = "swap to a fresher snapshot" if i == 0 else None
        axes.axvline(step, color=ORANGE, linewidth=1.3, linestyle=(0, (2, 2)), label=label)


def step_shares(rows: Sequence[Row]) -> str:
    """Shares of the step time over the run, stacked: forward, backward, wait."""
    width = max(1, math.ceil(len(rows) / NUM_SHARE_BINS))
    bins = [rows[i : i + width] for i in range(0, len(rows), width)]
    totals = [[sum(part) for part in zip(*map(step_seconds, rows_of), strict=True)] for rows_of in bins]
    shares = [[part / (sum(total) or 1.0) for part in total] for total in totals]

    def draw(figure: Any) -> None:  # noqa: ANN401
        axes = figure.subplots()
        edges = [*(rows_of[0]["step"] for rows_of in bins), rows[-1]["step"] + 1]
        bottom = [0.0] * len(edges)
        for part, name, color in ((1, "forward", PALE), (2, "backward", BLUE), (0, "wait", ORANGE)):
            heights = [share[part] for share in (*shares, shares[-1])]
            top = [low + height for low, height in zip(bottom, heights, strict=True)]
            axes.fill_between(edges, bottom, top, step="post", color=color, linewidth=0, label=name)
            bottom = top
        axes.set(ylim=(0, 1), xlim=(edges[0], edges[-1]), xlabel="training step")
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        _legend(axes, 3)

    return svg("step-shares", draw, height=TALL_INCHES)


def recall(rows: Sequence[Row]) -> str:
    """Recall@5 of every snapshot with its 95 % interval, and how often the right article was among the hits."""

    def draw(figure: Any) -> None:  # noqa: ANN401
        axes = figure.subplots()
        places, shares = range(len(rows)), [row["recall_at_5"] for row in rows]
        intervals = [wilson_interval(row["recall_at_5"], row["num_questions"]) for row in rows]
        lows, highs = zip(*intervals, strict=True)
        titles = [row["title_recall_at_5"] for row in rows]
        axes.plot(places, titles, "s--", color=MUTED, markerfacecolor=PAPER, linewidth=1, label="right article")
        axes.vlines(places, lows, highs, color=BLUE, linewidth=1.4, label="95 % interval")
        axes.plot(places, shares, "o-", color=BLUE, markersize=7, linewidth=1, label="recall@5")
        _label_points(axes, shares)
        _recall_axes(axes, rows)

    return svg("recall", draw, height=TALL_INCHES)


def _label_points(axes: Any, shares: Sequence[float]) -> None:  # noqa: ANN401
    every = math.ceil(len(shares) / MAX_POINT_LABELS)
    for place, share in enumerate(shares):
        if place % every == 0 or place == len(shares) - 1:
            axes.annotate(f"{share:.2f}", (place, share), (7, -4), textcoords="offset points", va="top", size=10)


def _recall_axes(axes: Any, rows: Sequence[Row]) -> None:  # noqa: ANN401
    places = range(0, len(rows), math.ceil(len(rows) / MAX_POINT_LABELS))
    axes.set_xticks(places, [str(rows[place]["encoder_step"]) for place in places])
    axes.set(xlim=(-0.4, len(rows) - 0.4), ylim=(0, 1.03), xlabel="training step of the snapshot's encoder")
    _legend(axes, 3)


def timeline(steps: Sequence[Row], refreshes: Sequence[Row], *, width: float) -> str:
    """Wall time from left to right: steps per minute above; below, training and the refresh stages as bars."""
    starts = [step_span(row)[0] for row in steps] + [row["started_at_seconds"] for row in refreshes]
    stops = [row["at_seconds"] for row in steps] + [row["live_at_seconds"] for row in refreshes] + starts
    zero, stop = min(starts), (max(stops) - min(starts)) / 60
    spans = [_minutes(step_span(row), zero) for row in steps]

    def draw(figure: Any) -> None:  # noqa: ANN401
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
        _draw_rate(above, spans, stop or 1.0)
        _draw_training(below, spans, (stop or 1.0) / 1000)
        for row in refreshes:
            _draw_refresh(below, row, zero, (above, below))
        below.set_yticks(range(4), ["training", "embed", "index", "swap"])
        below.set(ylim=(3.6, -0.6), xlim=(0, stop or 1.0), xlabel="minutes")
        below.grid(visible=False)

    return svg(f"timeline-{width:.0f}", draw, width=width, height=3.9)


def _draw_rate(axes: Any, spans: Sequence[Span], stop: float) -> None:  # noqa: ANN401
    edges = [i * stop / NUM_RATE_BINS for i in range(NUM_RATE_BINS + 1)]
    axes.stairs(step_rates(spans, edges), edges, fill=True, color=PALE)
    axes.set_ylabel("steps/min")
    axes.set_ylim(bottom=0)


def step_rates(spans: Sequence[Span], edges: Sequence[float]) -> list[float]:
    """Steps per unit of time between each two edges; a step on an edge counts on both sides, by its share of each."""
    rates = [0.0] * (len(edges) - 1)
    for start, stop in (span for span in spans if span[1] > span[0]):
        first = max(0, bisect_right(edges, start) - 1)
        for i in range(first, min(len(rates), bisect_left(edges, stop))):
            inside = min(stop, edges[i + 1]) - max(start, edges[i])
            rates[i] += inside / (stop - start) / (edges[i + 1] - edges[i])
    return rates


def _draw_training(axes: Any, spans: Sequence[Span], gap: float) -> None:  # noqa: ANN401
    bars = [(start, stop - start) for start, stop in merge_spans(spans, gap=gap)]
    axes.broken_barh(bars, (-0.3, 0.6), facecolor=BLUE)


def _draw_refresh(axes: Any, row: Row, zero: float, panels: Sequence[Any]) -> None:  # noqa: ANN401
    start, _ = _minutes((row["started_at_seconds"], 0.0), zero)
    if row["status"] != "live":
        axes.plot([start], [1], "x", color=INK, markersize=8, markeredgewidth=2)
        axes.annotate("failed", (start, 1), (7, 0), textcoords="offset points", va="center", size=10)
        return
    for lane, span in enumerate(refresh_stages(row).values(), start=1):
        begin, end = _minutes(span, zero)
        axes.broken_barh([(begin, end - begin)], (lane - 0.3, 0.6), facecolor=ORANGE)
    live = (row["live_at_seconds"] - zero) / 60
    axes.plot([live], [3], "D", color=ORANGE, markersize=6)
    for panel in panels:
        panel.axvline(live, color=ORANGE, linewidth=1.3, linestyle=(0, (2, 2)), zorder=3)


def _minutes(span: Span, zero: float) -> Span:
    return (span[0] - zero) / 60, (span[1] - zero) / 60


def _legend(axes: Any, num_columns: int) -> None:  # noqa: ANN401
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=num_columns, handlelength=1.6, columnspacing=1.4)


def _column(rows: Sequence[Row], name: str) -> list[float]:
    return [math.nan if row[name] is None else float(row[name]) for row in rows]


def svg(name: str, draw: Draw, *, width: float = HALF_PAGE_INCHES, height: float = PANEL_INCHES) -> str:
    """What `draw` puts on a figure (inches), as one `<svg>` element; ids begin with `name`, so plots share a page.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_package("matplotlib") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE | {"svg.hashsalt": name})
        figure, written = Figure(figsize=(width, height)), io.StringIO()
        draw(figure)
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=metadata)
    return _fit_page(written.getvalue(), name)


def _fit_page(text: str, name: str) -> str:
    """Drops the XML head, the fixed size and matplotlib's own style; makes ids unique and colours variables."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r' width="[^"]*" height="[^"]*"', "", text, count=1)
    text = re.sub(r' ?font-family: [^;"]*;?', "", text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for color, variable in VARIABLES.items():
        text = text.replace(color, f"var(--{variable})")
    return text


def missing_package(package: str) -> UsageError:
    """The error for a package that only the report needs."""
    return UsageError(
        where="the report page",
        found=f"no Python package {package}",
        expected="the packages of the extra 'demo'",
        action="Install them with: pip install 'realm-at-scale[demo]'",
    )
