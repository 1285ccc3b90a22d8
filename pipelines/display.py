"""What a run shows: progress with rates and ETAs while it works, a table of counts when it is done.

On a terminal progress is a bar that redraws; elsewhere it is a line now and then. Progress goes to standard error,
results to standard output.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from rich.progress import Task

SECONDS_BETWEEN_LINES = 10.0
WIDTH_WITHOUT_TERMINAL = 160
"""Columns."""


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        done = f"{int(task.completed):,}" + (f"/{int(task.total):,}" if task.total else "")
        speed = _speed(task)
        rate = f"{speed:,.1f}/s" if speed else ""
        return Text(f"{done} {task.fields['unit']}  {rate}  {task.fields['note']}")


class _EtaColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = _speed(task)
        is_known = speed and task.remaining is not None and not task.finished
        return Text(f"ETA {clock(task.remaining / speed)}" if is_known and speed and task.remaining else "")


def _speed(task: Task) -> float | None:
    """What the caller says it is, else what the bar has measured."""
    rate: float | None = task.fields["rate"]
    return task.speed if rate is None else rate


class Display:
    """Shows any number of tasks side by side; a context manager."""

    def __init__(self) -> None:
        console = Console(file=sys.stderr)
        columns = (TextColumn("{task.description:>9}"), BarColumn(24), _RateColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, _EtaColumn(), console=console)
        self.is_terminal = console.is_terminal

    def __enter__(self) -> Display:
        if self.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_terminal:
            self._bars.stop()

    def task(self, label: str, *, total: float | None, unit: str) -> Line | Bar:
        """A task to call `update` on."""
        if self.is_terminal:
            return Bar(self._bars, self._bars.add_task(label, total=total, unit=unit, note="", rate=None))
        return Line(label, total, unit)


class Bar:
    """A task on a terminal."""

    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def update(self, done: float, *, note: str = "", rate: float | None = None) -> None:
        """Shows how much is done by now; the rate per second, where given, instead of the one that is seen here."""
        self._bars.update(self._task, completed=done, note=note, rate=rate)

    def close(self) -> None:
        """Takes the bar off the screen."""
        self._bars.remove_task(self._task)


class Line:
    """A task where there is no terminal: a line every ten seconds, and one at the end."""

    def __init__(self, label: str, total: float | None, unit: str) -> None:
        self._label = label
        self._total = total
        self._unit = unit
        self._printed = time.monotonic()
        self._first: tuple[float, float] | None = None
        self._is_complete = False

    def update(self, done: float, *, note: str = "", rate: float | None = None) -> None:
        """Shows how much is done by now; the rate per second, where given, instead of the one that is seen here."""
        now = time.monotonic()
        started, before = self._first = self._first or (now, done)
        is_complete = self._total is not None and done >= self._total
        if self._is_complete or not (is_complete or now - self._printed >= SECONDS_BETWEEN_LINES):
            return
        self._is_complete, self._printed = is_complete, now
        line = progress_line(self._label, done, before, self._total, self._unit, now - started, note, rate=rate)
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        """Lines that were printed stay."""


def progress_line(
    label: str,
    done: float,
    before: float,
    total: float | None,
    unit: str,
    seconds: float,
    note: str,
    *,
    rate: float | None = None,
) -> str:
    """One line of progress: label, done of total, rate, ETA (or the time taken, at the end), note.

    `before` was done when the first of the `seconds` began: a run that goes on has a rate of its own. A `rate` that is
    given stands in its place, where not all that is done was work.
    """
    if rate is None:
        rate = (done - before) / seconds if seconds > 0 else 0.0
    speed = f"{rate:,.{1 if rate >= 1 else 2}f} {unit}/s  " if rate > 0 else ""
    of_total = f"/{total:,.0f}" if total else ""
    if total and done >= total:
        end = f"done in {clock(seconds)}"
    elif total and rate > 0:
        end = f"ETA {clock((total - done) / rate)}"
    else:
        end = f"{clock(seconds)} so far"
    return f"{label:>9}  {done:,.0f}{of_total} {unit}  {speed}{end}  {note}".rstrip()


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def say(text: str) -> None:
    """A line of what goes on, on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def print_table(title: str, rows: Iterable[tuple[str, object]]) -> None:
    """A two-column table on standard output."""
    table = Table(title=title, title_justify="left", show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    console().print(table)


def console() -> Console:
    """Standard output; where it is no terminal, wide enough for the widest table, so that no cell is folded."""
    plain = not sys.stdout.isatty()
    return Console(file=sys.stdout, width=WIDTH_WITHOUT_TERMINAL if plain else None, highlight=False)
