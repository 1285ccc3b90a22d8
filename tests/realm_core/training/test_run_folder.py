import pytest

from realm_core.errors import ArtifactCorruptError
from realm_core.storage.files import Store
from realm_core.training.run_folder import Merit, RunFolder, best_of


@pytest.fixture
def run(tmp_path):
    return RunFolder(Store(str(tmp_path)), "pretrain-x")


def save(run, step, text="state", utility=None, is_whole=True):
    def write(folder):
        (folder / "model.bin").write_text(f"weights {step}")
        (folder / "state.json").write_text(text)

    merit = None if utility is None else Merit(step=step, retrieval_utility=utility, is_whole=is_whole)
    run.save_checkpoint(step, write, merit=merit)


def test_the_two_newest_whole_checkpoints_are_kept(run, tmp_path):
    assert run.checkpoint_steps() == []
    for step in (10, 20, 30):
        save(run, step)
    assert run.checkpoint_steps() == [20, 30]
    kept = sorted(p.name for p in (tmp_path / "runs/pretrain-x/checkpoints").iterdir())
    assert kept == ["step-000020", "step-000030"]
    assert (run.local_checkpoint(30) / "model.bin").read_text() == "weights 30"
    assert run.best_checkpoint() is None


def test_the_best_checkpoint_stays_beside_the_newest_until_there_is_a_better_one(run):
    for step, utility in ((10, 0.1), (20, 0.5), (30, 0.2), (40, 0.5), (50, 0.4)):
        save(run, step, utility=utility)
    assert run.checkpoint_steps() == [20, 40, 50]
    assert run.best_checkpoint() == Merit(step=20, retrieval_utility=0.5, is_whole=True)
    save(run, 60, utility=0.6)
    save(run, 70, utility=0.3)
    assert run.checkpoint_steps() == [60, 70]
    assert run.best_checkpoint().step == 60


def test_an_interval_that_the_end_cut_short_is_the_best_only_where_there_is_no_other():
    short = Merit(step=11, retrieval_utility=0.9, is_whole=False)
    assert best_of([short]) == short
    assert best_of([Merit(step=10, retrieval_utility=0.1, is_whole=True), short]).step == 10
    assert best_of([]) is None


def test_a_checkpoint_that_is_made_again_replaces_its_files(run):
    save(run, 10, utility=0.9)
    save(run, 10, text="another", utility=0.1)
    assert (run.local_checkpoint(10) / "state.json").read_text() == "another"
    assert run.best_checkpoint().retrieval_utility == 0.1


def test_an_export_is_a_folder_of_each_model(run, tmp_path):
    for name in ("embedder", "encoder"):
        (tmp_path / "local" / name).mkdir(parents=True)
        (tmp_path / "local" / name / "config.json").write_text("{}")
    url = run.publish_export(tmp_path / "local")
    assert url == f"{tmp_path}/runs/pretrain-x/export"
    assert (tmp_path / "runs/pretrain-x/export/encoder/config.json").is_file()


def test_a_checkpoint_without_its_state_is_not_one(run, tmp_path):
    save(run, 10)
    save(run, 20)
    (tmp_path / "runs/pretrain-x/checkpoints/step-000020/state.json").unlink()
    assert run.checkpoint_steps() == [10]


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


@pytest.mark.parametrize("text", ['{"step": 1}\n{"st', "[]", '{"loss": 2.0}'])
def test_a_line_of_metrics_that_is_no_step_is_named(run, tmp_path, text):
    run.write_metrics(0, [{"step": 1}])
    (tmp_path / "runs/pretrain-x/metrics/from-000000.jsonl").write_text(text)
    with pytest.raises(ArtifactCorruptError, match=r"from-000000.jsonl: a line that is no step.*Delete that line"):
        run.read_metrics()


def test_only_later_steps_are_read_and_files_before_them_are_not_opened(run, tmp_path):
    run.write_metrics(0, [{"step": 1}, {"step": 2}])
    run.write_metrics(2, [{"step": 3}, {"step": 4}])
    run.write_metrics(4, [{"step": 5}])
    (tmp_path / "runs/pretrain-x/metrics/from-000000.jsonl").write_text("no JSON")
    assert [line["step"] for line in run.read_metrics(after_step=3)] == [4, 5]
    assert [line["step"] for line in run.read_metrics(after_step=4)] == [5]
    assert run.read_metrics(after_step=5) == []
