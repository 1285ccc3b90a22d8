import pytest
from support.pretrain_records import live_refresh, logged_step, measured_recall

from pipelines.pretrain_report import pretrain_page, pretrain_report
from pipelines.pretrain_watcher import step_note
from pipelines.report import render_report
from realm_core.storage.files import Store
from realm_core.training.run_folder import RunFolder

RESULT = {
    "num_swaps": 1, "num_searches": 40, "num_failed_searches": 0, "live_snapshot": "step-000002-abc", "live_step": 2,
    "best_step": 2, "best_retrieval_utility": 0.25, "export": "store/runs/pretrain-x/export",
}  # fmt: skip


def finished_run(folder, **changes):
    run = RunFolder(Store(str(folder)), "pretrain-x")
    steps = [logged_step(step, **changes) for step in range(1, 5)]
    steps[3]["skipped"] = {"mask_truncated": 2}
    run.write_metrics(0, steps)
    run.write_refresh(2, live_refresh(2))
    run.write_recall("step-000000-abc", measured_recall(0, 0.25))
    run.write_recall("step-000002-abc", measured_recall(2, 0.5))
    run.write_document("result", RESULT)
    return run


def test_counts_of_the_report_add_up(tmp_path):
    report = pretrain_report(finished_run(tmp_path), was_done=False)
    assert report.num_seen == report.num_used + sum(report.skipped.values()) == 20
    rows = dict(report.rows())
    assert rows["blocks seen"] == "20 = 12 used + 2 mask truncated + 6 no salient span"
    assert rows["waiting for examples"] == "16.7% of the step time"
    assert rows["retrieval utility, last tenth"] == "+0.2500"


def test_the_page_shows_what_was_seen(tmp_path):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    run = finished_run(tmp_path)
    html = render_report(pretrain_page(run, pretrain_report(run, was_done=False)))
    for words in (
        "predict the masked words better than the null document does",
        "tokens/s", "blocks/s", "overlap@10", "skipped: no salient span",
        "recall@5 after", "0.800",
    ):  # fmt: skip
        assert words in html
    assert "not available" not in html


def test_without_a_null_document_utility_is_said_to_be_missing(tmp_path):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    run = finished_run(tmp_path, retrieval_utility=None)
    report = pretrain_report(run, was_done=False)
    assert report.retrieval_utility_last is None
    assert dict(report.rows())["retrieval utility, last tenth"] == "not available without a null document"
    html = render_report(pretrain_page(run, report))
    assert "is not available: this run had no null document" in html
    assert "predict the masked words better than the null document does" not in html


def test_a_step_in_a_line():
    assert step_note(logged_step(2)) == "loss 3.000  utility +0.250  1 steps stale  200 tokens/s  2 batches ready"
    assert "utility" not in step_note(logged_step(2, retrieval_utility=None))
