"""The event files are read back by hand: length, checksum, event, checksum."""

import struct

import pytest
from support.pretrain_records import live_refresh, logged_step, measured_recall
from tensorboardX.proto.event_pb2 import Event

from pipelines.tensorboard import TensorBoardLog
from realm_core.errors import UsageError
from realm_core.storage.files import Store
from realm_core.training.run_folder import RunFolder


@pytest.fixture
def run(tmp_path):
    run = RunFolder(Store(str(tmp_path / "store")), "pretrain-x")
    run.write_metrics(0, [logged_step(1), logged_step(2)])
    run.write_refresh(2, live_refresh(2))
    run.write_recall("step-000002-abc", measured_recall(2, 0.5))
    return run


def scalars(folder):
    """(name, step, value) of all event files, sorted."""
    found = []
    for file in (folder / "pretrain-x").iterdir():
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            at += 16 + length
    return sorted(found)


def test_every_number_is_copied_once_at_its_step(run, tmp_path):
    log = TensorBoardLog(tmp_path / "events", run)
    log.look()
    run.write_metrics(2, [logged_step(3)])
    log.look()
    log.look()
    log.close()
    found = scalars(tmp_path / "events")
    assert [(step, value) for name, step, value in found if name == "training/loss"] == [(1, 4.0), (2, 3.0), (3, 2.0)]
    assert [(step, value) for name, step, value in found if name == "recall/at_5"] == [(2, 0.5)]
    assert [(step, value) for name, step, value in found if name == "refresh/blocks_per_second"] == [(2, 50.0)]
    assert len({(name, step) for name, step, _ in found}) == len(found)


def test_a_refresh_is_copied_when_it_is_over(run, tmp_path):
    run.write_refresh(9, {**live_refresh(9), "status": "running"})
    log = TensorBoardLog(tmp_path / "events", run)
    log.look()
    run.write_refresh(9, live_refresh(9))
    log.look()
    log.close()
    found = {(name, step): value for name, step, value in scalars(tmp_path / "events")}
    assert found["refresh/failed", 9] == 0.0
    assert found["refresh/blocks_per_second", 9] == 50.0


def test_a_run_that_goes_on_is_copied_anew_and_not_twice(run, tmp_path):
    first = TensorBoardLog(tmp_path / "events", run)
    first.look()
    first.close()
    before = scalars(tmp_path / "events")
    again = TensorBoardLog(tmp_path / "events", run)
    again.look()
    again.close()
    assert scalars(tmp_path / "events") == before


def test_other_files_in_the_folder_are_left_alone(run, tmp_path):
    (tmp_path / "events" / "pretrain-x").mkdir(parents=True)
    (tmp_path / "events" / "pretrain-x" / "notes.txt").write_text("mine")
    TensorBoardLog(tmp_path / "events", run).close()
    assert (tmp_path / "events" / "pretrain-x" / "notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_is_refused_at_the_start(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--tensorboard"):
        TensorBoardLog(tmp_path / "file", run)
