"""A pre-training run as TensorBoard's event files: a copy of the JSON lines in the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tensorboardX import SummaryWriter

from pipelines.telemetry import recall_scalars, refresh_scalars, step_scalars
from realm_core.errors import UsageError

if TYPE_CHECKING:
    from realm_core.training.run_folder import RunFolder

EVENT_FILES = "events.out.tfevents.*"
FLUSH_SECONDS = 10


class TensorBoardLog:
    """Copies what a run has logged since the last look; each number once, also after a crash.

    The run's records are the truth: the event files of an earlier process are removed, and written anew from them.
    """

    def __init__(self, folder: Path, run: RunFolder) -> None:
        """Writes to `folder/<name of the run>`. Raises `UsageError` where it cannot."""
        self._run = run
        own_folder = folder / run.name
        try:
            own_folder.mkdir(parents=True, exist_ok=True)
            for old in own_folder.glob(EVENT_FILES):
                old.unlink()
            self._writer = SummaryWriter(str(own_folder), flush_secs=FLUSH_SECONDS)
        except OSError as error:
            raise UsageError(
                where=f"--tensorboard {folder}",
                found=str(error),
                expected="a folder that can be written to",
                action="Name another folder.",
            ) from error
        self._last_step = 0
        self._refreshes: set[int] = set()
        self._snapshots: set[str] = set()

    def look(self) -> None:
        """Writes what is new."""
        for step in self._run.read_metrics(after_step=self._last_step):
            self._last_step = step["step"]
            self._write(step_scalars(step), step["step"], step["at_seconds"])
        for refresh in self._run.read_refreshes():
            if refresh["status"] != "running" and refresh["step"] not in self._refreshes:
                self._refreshes.add(refresh["step"])
                at = refresh["live_at_seconds"] or refresh["started_at_seconds"]
                self._write(refresh_scalars(refresh), refresh["step"], at)
        for recall in self._run.read_recall():
            if recall["snapshot_id"] not in self._snapshots:
                self._snapshots.add(recall["snapshot_id"])
                self._write(recall_scalars(recall), recall["encoder_step"], None)

    def close(self) -> None:
        """Writes out what is left."""
        self._writer.close()

    def _write(self, scalars: dict[str, float], step: int, at_seconds: float | None) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step, walltime=at_seconds)
