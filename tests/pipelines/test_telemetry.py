import pytest
from support.pretrain_records import live_refresh, logged_step, measured_recall

from pipelines.telemetry import blocks_per_second, recall_scalars, refresh_scalars, step_scalars


def test_the_numbers_of_a_step():
    assert step_scalars(logged_step(2)) == {
        "training/loss": 3.0,
        "training/retrieval_utility": 0.25,
        "training/gradient_norm": 0.5,
        "training/step_seconds": 3.0,
        "training/tokens_per_second": 200.0,
        "staleness/steps": 1.0,
        "staleness/seconds": 3.5,
        "examples/queue_depth": 2.0,
        "examples/wait_seconds": 0.5,
        "examples/seen": 5.0,
        "examples/used": 3.0,
        "examples/skipped_no_salient_span": 2.0,
    }


def test_without_a_null_document_there_is_no_utility_rather_than_a_wrong_one():
    assert "training/retrieval_utility" not in step_scalars(logged_step(2, retrieval_utility=None))


def test_the_numbers_of_a_refresh():
    assert refresh_scalars(live_refresh(4)) == {
        "refresh/embed_seconds": 4.0,
        "refresh/index_seconds": 1.0,
        "refresh/publish_seconds": 0.5,
        "refresh/swap_seconds": 0.25,
        "refresh/blocks_per_second": 50.0,
        "refresh/overlap_at_10": 0.8,
        "refresh/failed": 0.0,
    }
    assert refresh_scalars(live_refresh(4, status="failed", seconds={}, counts={})) == {"refresh/failed": 1.0}


def test_a_refresh_that_found_everything_embedded_has_no_pace():
    assert blocks_per_second(live_refresh(4, counts={"rows": 400, "rows_made": 0})) is None


def test_the_numbers_of_a_recall():
    assert recall_scalars(measured_recall(4, 0.5)) == {
        "recall/at_5": 0.5,
        "recall/title_at_5": pytest.approx(0.75),
    }
