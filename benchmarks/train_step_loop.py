"""The two sides of `benchmarks.train_step`: ranks on cores of their own, with live batches or with recorded ones."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.pretraining import pretrain_loop
from realm_core.training.example_generator import GeneratedBatch
from realm_core.training.featurization import PretrainBatch

if TYPE_CHECKING:
    from collections.abc import Collection

    from cluster.pretraining import BatchSource


class RecordingSource:
    """Live batches, each of which is also written to a folder; the writing counts as waiting for examples."""

    def __init__(self, source: BatchSource, folder: Path) -> None:
        self._source = source
        self._folder = folder

    def batch_at(self, position: int) -> tuple[GeneratedBatch, int]:
        """See `BatchSource.batch_at`."""
        batch, num_ready = self._source.batch_at(position)
        arrays = {field.name: getattr(batch.arrays, field.name) for field in fields(batch.arrays)}
        np.savez(self._folder / f"{position}.npz", **arrays)
        facts = {field.name: getattr(batch, field.name) for field in fields(batch) if field.name != "arrays"}
        (self._folder / f"{position}.json").write_text(json.dumps(facts))
        return batch, num_ready


class RecordedSource:
    """What a `RecordingSource` wrote, at the same positions."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def batch_at(self, position: int) -> tuple[GeneratedBatch, int]:
        """See `BatchSource.batch_at`."""
        with np.load(self._folder / f"{position}.npz") as stored:
            arrays = PretrainBatch(**{name: stored[name] for name in stored.files})
        facts = json.loads((self._folder / f"{position}.json").read_text())
        return GeneratedBatch(arrays=arrays, **facts), 1


def pinned_loop(config: dict[str, Any]) -> None:
    """`pretrain_loop` on the cores of `trainer_cores`; none named leaves the rank where it is."""
    pin(config["trainer_cores"])
    pretrain_loop(config)


def pin(cores: Collection[int]) -> None:
    """Keeps this thread, and those that it starts, on these cores (Linux)."""
    if cores:
        os.sched_setaffinity(0, cores)
