from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from support.tiny_training import FEATURES, SPECIAL

from benchmarks.oracle import ROOT
from benchmarks.train_step import share_cores
from benchmarks.train_step_loop import RecordedSource, RecordingSource
from realm_core.training.example_generator import GeneratedBatch
from realm_core.training.featurization import NULL_DOCUMENT, pretrain_batch
from realm_core.training.masking import MaskedQuery


class OneBatch:
    """A source whose every batch says where it begins."""

    def batch_at(self, position):
        query = MaskedQuery((position + 5, 3), (1,), (11,))
        arrays = pretrain_batch([query], [[NULL_DOCUMENT] * 3], config=FEATURES, special=SPECIAL)
        skipped = {"no_salient_span": 1}
        return GeneratedBatch(arrays, position + 1, "step-000000-x", 0, 2, skipped), 2


def test_recorded_batches_are_the_live_ones(tmp_path):
    recording = RecordingSource(OneBatch(), tmp_path)
    live = [recording.batch_at(position)[0] for position in (0, 1)]
    for position in (1, 0):
        batch, _ = RecordedSource(tmp_path).batch_at(position)
        for name in batch.arrays.__dataclass_fields__:
            expected = getattr(live[position].arrays, name)
            assert getattr(batch.arrays, name).dtype == expected.dtype
            np.testing.assert_array_equal(getattr(batch.arrays, name), expected)
        assert (batch.next_position, batch.snapshot_id, batch.skipped) == (
            live[position].next_position, live[position].snapshot_id, live[position].skipped,
        )  # fmt: skip


def test_ranks_and_the_rest_share_no_core():
    cores = share_cores()
    assert not set(cores.trainer) & set(cores.others)
    assert bool(cores.trainer) == bool(cores.others)


@pytest.mark.parametrize("side", ["ours", "ours, layers kept"])
def test_a_side_prints_its_loss_and_its_peak(side):
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.train_step_worker", "--side", side, "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["loss"] == pytest.approx(7.6029, rel=1e-3)
    assert measured["peak_bytes"] >= measured["constructed_bytes"] > 0
