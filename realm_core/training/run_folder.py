"""A training run in the store: its checkpoints, its metrics, its result.

    runs/<name>/checkpoints/step-000020/   model, optimizer and random state; `state.json` last
    runs/<name>/export/                    the best models, in the published format
    runs/<name>/metrics/from-000020.jsonl  one line per step since that checkpoint
    runs/<name>/refreshes/step-000020.json one per refresh
    runs/<name>/recall/<snapshot>.json     recall@5 of each snapshot that went live
    runs/<name>/result.json                written when the run is complete

A step that is taken again after a crash writes the same line into the same file: metrics hold each step once.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realm_core.errors import ArtifactCorruptError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from realm_core.storage.files import Store

KEPT_CHECKPOINTS = 2
STATE_NAME = "state.json"
MERIT_NAME = "merit.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Merit:
    """How good the model of a checkpoint is."""

    step: int
    retrieval_utility: float
    """Mean over the masked tokens of the steps since the checkpoint before, in nats. A step's examples are new to the
    model when their utility is measured (in the first epoch), as those of a held-out set are, by which the reference's
    exporter keeps its best; they are many more, and cost nothing."""
    is_whole: bool
    """False for an interval that the end of the run cut short, with fewer examples to judge by."""


def best_of(merits: Sequence[Merit]) -> Merit | None:
    """The one of highest retrieval utility, the first of equals; a cut interval only where there is no whole one."""
    candidates = [merit for merit in merits if merit.is_whole] or merits
    return max(candidates, key=lambda merit: (merit.retrieval_utility, -merit.step), default=None)


class RunFolder:
    """Reads and writes what a training run leaves behind."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self.name = name
        self.path = f"runs/{name}"

    def checkpoint_steps(self) -> list[int]:
        """Steps of the whole checkpoints, oldest first."""
        names = self._store.list(f"{self.path}/checkpoints")
        whole = [n for n in names if self._store.exists(f"{self.path}/checkpoints/{n}/{STATE_NAME}")]
        return sorted(int(name.removeprefix("step-")) for name in whole)

    def local_checkpoint(self, step: int) -> Path:
        """A local folder with the checkpoint's files."""
        return self._store.local_folder(self._checkpoint_path(step))

    def save_checkpoint(self, step: int, write: Callable[[Path], None], *, merit: Merit | None = None) -> None:
        """Lets `write(folder)` make the files and shows them as one checkpoint.

        Of the others stay the one before and the best; a checkpoint that is made again replaces its first form.
        """
        path = self._checkpoint_path(step)
        with tempfile.TemporaryDirectory(prefix="realm-checkpoint-") as folder:
            write(Path(folder))
            if merit is not None:
                (Path(folder) / MERIT_NAME).write_text(json.dumps(asdict(merit)))
            self._store.forget_copies(path)
            self._store.remove_folder(path, first=STATE_NAME)
            self._store.put_folder(Path(folder), path, last=STATE_NAME)
        best = self.best_checkpoint()
        for old in self.checkpoint_steps()[:-KEPT_CHECKPOINTS]:
            if best is None or old != best.step:
                self._store.remove_folder(self._checkpoint_path(old), first=STATE_NAME)

    def best_checkpoint(self) -> Merit | None:
        """The merit of the best checkpoint that is there, see `best_of`; None where none has any."""
        return best_of(self.merits())

    def merits(self) -> list[Merit]:
        """Of the checkpoints that are there and have one, oldest first."""
        paths = [f"{self._checkpoint_path(step)}/{MERIT_NAME}" for step in self.checkpoint_steps()]
        return [Merit(**self._store.read_json(path)) for path in paths if self._store.exists(path)]

    def publish_export(self, folder: Path) -> str:
        """Shows a local folder's files, which lie in folders of their own, as the run's export; returns its URL."""
        for part in sorted(path for path in folder.iterdir() if path.is_dir()):
            self._store.put_folder(part, f"{self.path}/export/{part.name}", last="config.json")
        return f"{self._store.url}/{self.path}/export"

    def write_metrics(self, first_step: int, lines: list[dict[str, Any]]) -> None:
        """Writes the steps since the checkpoint at `first_step`; what was there under that name is replaced."""
        text = "".join(json.dumps(line) + "\n" for line in lines)
        self._store.write_bytes(f"{self.path}/metrics/from-{first_step:06d}.jsonl", text.encode())

    def read_metrics(self, *, after_step: int = 0) -> list[dict[str, Any]]:
        """One mapping per step after `after_step`, in order; of a step that was taken twice, the later one.

        Reads only the files that may hold such steps.
        """
        by_step: dict[int, dict[str, Any]] = {}
        for name in self._metrics_files(after_step):
            for line in self._store.read_bytes(f"{self.path}/metrics/{name}").splitlines():
                record = self._parsed(f"{self.path}/metrics/{name}", line)
                by_step[record["step"]] = record
        return [by_step[step] for step in sorted(by_step) if step > after_step]

    def _parsed(self, path: str, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
            int(record["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise ArtifactCorruptError(
                where=f"{self._store.url}/{path}",
                found=f"a line that is no step: {line[:60].decode(errors='replace')}",
                expected="one JSON object with its `step` on each line",
                action="Delete that line: what it showed is lost, and nothing else.",
            ) from error
        return dict(record)

    def _metrics_files(self, after_step: int) -> list[str]:
        """Names of the files with steps after `after_step`, oldest first: each ends where a later one begins."""
        first_steps = sorted(
            int(name[len("from-") : -len(".jsonl")]) for name in self._store.list(f"{self.path}/metrics")
        )
        last_before = max((step for step in first_steps if step <= after_step), default=0)
        return [f"from-{step:06d}.jsonl" for step in first_steps if step >= last_before]

    def write_refresh(self, step: int, record: dict[str, Any]) -> None:
        """Records what became of the refresh from the checkpoint at `step`."""
        self._store.write_json(f"{self.path}/refreshes/step-{step:06d}.json", record)

    def read_refreshes(self) -> list[dict[str, Any]]:
        """All refreshes of the run, by step."""
        folder = f"{self.path}/refreshes"
        return [self._store.read_json(f"{folder}/{name}") for name in self._store.list(folder)]

    def write_recall(self, snapshot_id: str, record: dict[str, Any]) -> None:
        """Records the recall that was measured with a snapshot."""
        self._store.write_json(f"{self.path}/recall/{snapshot_id}.json", record)

    def read_recall(self) -> list[dict[str, Any]]:
        """The recall of each snapshot of the run, by step."""
        folder = f"{self.path}/recall"
        return [self._store.read_json(f"{folder}/{name}") for name in self._store.list(folder)]

    def write_document(self, name: str, value: dict[str, Any]) -> None:
        """Writes a small JSON file of the run."""
        self._store.write_json(f"{self.path}/{name}.json", value)

    def read_document(self, name: str) -> dict[str, Any] | None:
        """A small JSON file of the run; None when it is not there."""
        path = f"{self.path}/{name}.json"
        return dict(self._store.read_json(path)) if self._store.exists(path) else None

    def result(self) -> dict[str, Any] | None:
        """What the complete run left; None while it is not complete."""
        return self.read_document("result")

    def remove_checkpoints(self) -> None:
        """Removes all checkpoints: a complete run's result and encoder are enough."""
        self._store.remove(f"{self.path}/checkpoints")

    def _checkpoint_path(self, step: int) -> str:
        return f"{self.path}/checkpoints/step-{step:06d}"
