"""A run as one HTML page: what was done, how fresh the index was, what retrieval gained; no network, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from pipelines import report_plots as plots
from pipelines import report_run_plots as run_plots
from pipelines.telemetry import blocks_per_second
from realm_core.errors import UsageError
from realm_core.storage.files import Store

if TYPE_CHECKING:
    import jinja2

Row = Mapping[str, Any]

TEMPLATE = "report.html.jinja"
NUM_BODY_CHARACTERS = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportData:
    """One whole run as plain JSON values; any sequence may be empty. Times of day are seconds since the epoch."""

    title: str
    created_at: str
    headline: list[tuple[str, str]]
    """Name and value of what matters most."""
    counts: list[tuple[str, list[tuple[str, str]]]]
    """Sections of names and values."""
    stages: list[dict[str, Any]]
    """`name`, `seconds`, `was_done` (found finished when the run came to it)."""
    warmup: list[dict[str, Any]]
    """One per step: `step`, `loss`, `removed_accuracy`, `kept_accuracy` (None where the batch had no such query)."""
    steps: list[dict[str, Any]]
    """One per step: `step`, `at_seconds` (its end), `loss`, `retrieval_utility`, `snapshot_id`, `staleness_steps`,
    `staleness_seconds`, `wait_seconds`, `forward_seconds`, `backward_seconds`, `num_tokens`, `batches_ready`.
    `retrieval_utility` is None without a null document."""
    refreshes: list[dict[str, Any]]
    """`RefreshRecord.to_json()` of `cluster.refresh`, each live or failed."""
    recall: list[dict[str, Any]]
    """One per snapshot, by step: `snapshot_id`, `encoder_step`, `recall_at_5`, `title_recall_at_5`, `num_questions`."""
    asked: list[dict[str, Any]]
    """`question` and `evidence`, best first: `block_id`, `relevance`, `title`, `body`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A plot with a sentence on how to read it."""

    title: str
    caption: str
    svg: str
    narrow_svg: str = ""
    """The same for a narrow screen, where `svg` would be too small to read."""


def render_report(data: ReportData) -> str:
    """The page; the same data give the same bytes.

    Raises:
        UsageError: jinja2 or matplotlib is not installed.
    """
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            data=data,
            longest_stage_seconds=max((row["seconds"] for row in data.stages), default=0.0),
            warmup_figures=_warmup_figures(data.warmup),
            timeline=_timeline_figure(data.steps, data.refreshes),
            overlap=overlap_sentence(data.steps, data.refreshes),
            staleness_figures=_staleness_figures(data.steps),
            refresh_figures=_refresh_figures(data.refreshes),
            blocks_per_second=[blocks_per_second(row) for row in data.refreshes],
            steps_meanwhile=[num_steps_meanwhile(data.steps, row) for row in data.refreshes],
            training_figures=_training_figures(data.steps),
            recall_figures=_recall_figures(data.recall),
            noise=noise_sentence(data.recall),
        )
    )


def require_writable_report(path: Path) -> None:
    """Raises `UsageError` at the start for a report that could not be written at the end."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(
            where=f"--report {path}",
            found="a folder" if path.is_dir() else "no such folder",
            expected="the name of a file in a folder that is there",
            action="Correct the path.",
        )


def write_report(data: ReportData, path: Path) -> None:
    """Writes the page; a reader sees the old one or the new one."""
    target = path.absolute()
    Store(str(target.parent)).write_bytes(target.name, render_report(data).encode())


def _environment() -> jinja2.Environment:
    try:
        import jinja2
    except ImportError as error:
        raise plots.missing_package("jinja2") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "excerpt": excerpt}
    return environment


def duration(seconds: float | None) -> str:
    """Seconds as a person reads them: 0.34 s, 12.5 s, 3 min 05 s, 2 h 07 min; a dash for None."""
    if seconds is None:
        return "–"
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours} h {minute:02d} min" if hours else f"{minutes} min {second:02d} s"


def excerpt(text: str) -> str:
    """The first 300 characters or fewer, cut between words."""
    if len(text) <= NUM_BODY_CHARACTERS:
        return text
    whole_words = text[: NUM_BODY_CHARACTERS + 1].rpartition(" ")[0]
    return (whole_words or text[:NUM_BODY_CHARACTERS]).rstrip() + " …"


def num_steps_meanwhile(steps: Sequence[Row], refresh: Row) -> int | None:
    """Training steps that ended while a live refresh ran; None for one that did not become live."""
    if refresh["status"] != "live":
        return None
    start: float = refresh["started_at_seconds"]
    live: float = refresh["live_at_seconds"]
    return sum(1 for row in steps if start < row["at_seconds"] <= live)


def overlap_sentence(steps: Sequence[Row], refreshes: Sequence[Row]) -> str:
    """How much training went on during refreshes, in numbers; empty when there is nothing to say."""
    if len(steps) < 2 or not refreshes:
        return ""
    meanwhile = sum(num_steps_meanwhile(steps, row) or 0 for row in refreshes)
    pauses = [after["at_seconds"] - before["at_seconds"] for before, after in pairwise(steps)]
    return (
        f"{meanwhile:,} of the {len(steps):,} training steps ended while a refresh was running. From the end of one"
        f" step to the end of the next it took {duration(median(pauses))} (median), and never more than"
        f" {duration(max(pauses))}."
    )


def noise_sentence(recall: Sequence[Row]) -> str:
    """What chance alone does to a recall of that many questions; empty when none was asked."""
    asked = [row for row in recall if row["num_questions"]]
    if not asked:
        return ""
    num_questions = asked[-1]["num_questions"]
    low, high = plots.wilson_interval(asked[-1]["recall_at_5"], num_questions)
    return (
        f"With {num_questions:,} questions the last recall@5 may as well be anything from {low:.2f} to {high:.2f}"
        " (Wilson, 95 %). Each snapshot is asked the same questions, so differences between snapshots are somewhat"
        " more certain than that."
    )


def _warmup_figures(rows: Sequence[Row]) -> list[Figure]:
    if not rows:
        return []
    loss = "Lower is better: how surprised the embedder is, on the average, by which block a sentence comes from."
    accuracy = (
        "Higher is better: the share of queries that found their own block among those of the batch, solid where the"
        " query's sentence was removed from its block, dashed (and easier) where it was kept."
    )
    return [
        Figure(title="Warm-up: loss", caption=loss, svg=plots.curve(rows, "loss", phase="warm-up")),
        Figure(title="Warm-up: accuracy", caption=accuracy, svg=plots.warmup_accuracy(rows)),
    ]


def _timeline_figure(steps: Sequence[Row], refreshes: Sequence[Row]) -> Figure | None:
    if not steps and not refreshes:
        return None
    caption = (
        "Time runs to the right: training goes on where the blue bar is unbroken above the orange bars of a refresh,"
        " and each dashed line with its diamond is the moment a fresher snapshot went live."
    )
    wide, narrow = (
        plots.timeline(steps, refreshes, width=width) for width in (plots.FULL_PAGE_INCHES, plots.HALF_PAGE_INCHES)
    )
    return Figure(title="Training and refreshes side by side", caption=caption, svg=wide, narrow_svg=narrow)


def _staleness_figures(steps: Sequence[Row]) -> list[Figure]:
    if not steps:
        return []
    staleness = (
        "How old the encoder behind each step's candidates was: it climbs while training goes on and drops at each"
        " dashed line, where a swap put a fresher snapshot live; lower is fresher."
    )
    shares = "The taller a band, the more of the step time it takes; a thin wait band means that candidates were ready."
    return [
        Figure(title="Staleness", caption=staleness, svg=plots.staleness(steps)),
        Figure(title="Where a step's time goes", caption=shares, svg=plots.step_shares(steps)),
    ]


def _refresh_figures(refreshes: Sequence[Row]) -> list[Figure]:
    live = [row for row in refreshes if row["status"] == "live"]
    if not live:
        return []
    caption = (
        "Above, how fast each refresh embedded blocks. Below, the share of an older snapshot's ten best hits that are"
        " still among those of the next one, for the same queries: how far one refresh moves retrieval."
    )
    wide, narrow = (
        run_plots.refresh_rates(live, width=width) for width in (plots.FULL_PAGE_INCHES, plots.HALF_PAGE_INCHES)
    )
    return [Figure(title="Refreshes: pace and change", caption=caption, svg=wide, narrow_svg=narrow)]


def _training_figures(steps: Sequence[Row]) -> list[Figure]:
    if not steps:
        return []
    loss = "Lower is better; single steps have few masked words and are noisy, so read the bold line."
    utility = "Above zero, the retrieved blocks predict the masked words better than the null document does."
    pace = (
        "Above, tokens that all ranks read a second, waiting included; below, the batches that were ready when the"
        " trainer asked for one: where it is zero the trainer waits."
    )
    measured = [row for row in steps if row["retrieval_utility"] is not None]
    utility_svg = plots.curve(measured, "retrieval_utility", zero_line=True) if measured else ""
    return [
        Figure(title="Loss", caption=loss, svg=plots.curve(steps, "loss")),
        *([Figure(title="Retrieval utility", caption=utility, svg=utility_svg)] if measured else []),
        Figure(title="Pace", caption=pace, svg=run_plots.throughput(steps)),
    ]


def _recall_figures(recall: Sequence[Row]) -> list[Figure]:
    caption = (
        "Higher is better: a dot is the share of questions with an answer in one of the five best blocks and that"
        " block from the right article; a change within the vertical bars can be chance."
    )
    asked = [row for row in recall if row["num_questions"]]
    return [Figure(title="Recall@5 by snapshot", caption=caption, svg=plots.recall(asked))] if asked else []
