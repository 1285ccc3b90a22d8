"""`searcher.json`: what a directory with a saved searcher holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realm_core.errors import ArtifactCorruptError, ArtifactMissingError
from realm_core.index.specs import ResolvedSpec

DESCRIPTION_NAME = "searcher.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class SearcherDescription:
    """Written beside the index's own files, read first when it is loaded."""

    spec: ResolvedSpec
    num_rows: int
    dimension: int

    def write(self, directory: Path) -> None:
        """Writes `searcher.json`; makes the directory where there is none."""
        directory.mkdir(parents=True, exist_ok=True)
        values = {
            "dimension": self.dimension,
            "kind": self.spec.kind,
            "num_rows": self.num_rows,
            "spec": self.spec.to_json(),
        }
        (directory / DESCRIPTION_NAME).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")

    @classmethod
    def read(cls, directory: Path) -> SearcherDescription:
        """Raises `ArtifactMissingError` or `ArtifactCorruptError`."""
        path = directory / DESCRIPTION_NAME
        values = _read_json(path)
        spec, num_rows, dimension = values.get("spec"), values.get("num_rows"), values.get("dimension")
        if not (isinstance(spec, dict) and isinstance(num_rows, int) and isinstance(dimension, int)):
            raise corrupt_index(path, f"the keys {sorted(values)}", "kind, dimension, num_rows and spec")
        resolved = ResolvedSpec.from_json(spec, where=str(path))
        return cls(spec=resolved, num_rows=num_rows, dimension=dimension)

    def require_shape(self, num_rows: int, dimension: int, path: Path) -> None:
        """Raises `ArtifactCorruptError` unless the index at `path` has the shape that is described."""
        if (num_rows, dimension) != (self.num_rows, self.dimension):
            found = f"an index of {num_rows} rows x {dimension}"
            raise corrupt_index(path, found, f"{self.num_rows} rows x {self.dimension}, as {DESCRIPTION_NAME} says")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise missing_file(path)
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise corrupt_index(path, str(error), "a JSON object") from error
    if not isinstance(values, dict):
        raise corrupt_index(path, f"a JSON {type(values).__name__}", "a JSON object")
    return values


def missing_file(path: Path) -> ArtifactMissingError:
    """The error of an index file that is not there."""
    return ArtifactMissingError(
        where=str(path),
        found="no such file",
        expected="the files of a saved searcher",
        action="Build the index of this snapshot again: realm index.",
    )


def corrupt_index(path: Path, found: str, expected: str) -> ArtifactCorruptError:
    """The error of an index file that cannot be what was saved."""
    action = "Remove the index directory and build it again: realm index."
    return ArtifactCorruptError(where=str(path), found=found, expected=expected, action=action)
