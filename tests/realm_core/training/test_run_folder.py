import pytest

from realm_core.storage.files import Store
from realm_core.training.run_folder import RunFolder


@pytest.fixture
def run(tmp_path):
    return RunFolder(Store(str(tmp_path)), "pretrain-x")


def save(run, step, text="state"):
    def write(folder):
        (folder / "model.bin").write_text(f"weights {step}")
        (folder / "state.json").write_text(text)

    run.save_checkpoint(step, write)


def test_the_newest_whole_checkpoint_is_the_latest_and_two_are_kept(run, tmp_path):
    assert run.latest_checkpoint_step() == 0
    for step in (10, 20, 30):
        save(run, step)
    assert run.latest_checkpoint_step() == 30
    kept = sorted(p.name for p in (tmp_path / "runs/pretrain-x/checkpoints").iterdir())
    assert kept == ["step-000020", "step-000030"]
    assert (run.local_checkpoint(30) / "model.bin").read_text() == "weights 30"


def test_a_checkpoint_without_its_state_is_not_one(run, tmp_path):
    save(run, 10)
    save(run, 20)
    (tmp_path / "runs/pretrain-x/checkpoints/step-000020/state.json").unlink()
    assert run.latest_checkpoint_step() == 10


def test_steps_taken_again_replace_their_lines(run):
    run.write_metrics(0, [{"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.0}])
    run.write_metrics(2, [{"step": 3, "loss": 3.0}, {"step": 4, "loss": 2.5}])
    run.write_metrics(2, [{"step": 3, "loss": 3.5}])
    assert [(m["step"], m["loss"]) for m in run.read_metrics()] == [(1, 5.0), (2, 4.0), (3, 3.5)]


def test_records_and_documents_are_read_back(run):
    assert run.result() is None
    assert run.read_refreshes() == run.read_recall() == run.read_metrics() == []
    run.write_refresh(20, {"step": 20})
    run.write_refresh(10, {"step": 10})
    run.write_recall("step-000010-x", {"recall_at_5": 0.5})
    run.write_document("result", {"live_step": 20})
    assert [r["step"] for r in run.read_refreshes()] == [10, 20]
    assert run.read_recall() == [{"recall_at_5": 0.5}]
    assert run.result() == {"live_step": 20}


def test_only_later_steps_are_read_and_files_before_them_are_not_opened(run, tmp_path):
    run.write_metrics(0, [{"step": 1}, {"step": 2}])
    run.write_metrics(2, [{"step": 3}, {"step": 4}])
    run.write_metrics(4, [{"step": 5}])
    (tmp_path / "runs/pretrain-x/metrics/from-000000.jsonl").write_text("no JSON")
    assert [line["step"] for line in run.read_metrics(after_step=3)] == [4, 5]
    assert [line["step"] for line in run.read_metrics(after_step=4)] == [5]
    assert run.read_metrics(after_step=5) == []
