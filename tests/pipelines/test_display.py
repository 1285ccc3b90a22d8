import pytest

from pipelines.display import Display, clock, progress_line


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3_725, "1:02:05")])
def test_seconds_as_a_clock(seconds, text):
    assert clock(seconds) == text


def test_a_line_has_rate_and_eta():
    line = progress_line("embed", 300, 0, 1_300, "blocks", 10.0, "note")
    assert line == "    embed  300/1,300 blocks  30.0 blocks/s  ETA 0:33  note"


def test_a_run_that_goes_on_counts_its_own_rate():
    assert "2.0 steps/s  ETA 0:40" in progress_line("pretrain", 120, 100, 200, "steps", 10.0, "")


def test_the_last_line_has_the_time_it_took():
    assert progress_line("index", 2, 0, 2, "shards", 61.0, "").endswith("0.03 shards/s  done in 1:01")


def test_without_a_total_there_is_no_eta():
    assert progress_line("ingest", 5, 0, None, "documents", 2.0, "").endswith("2.5 documents/s  0:02 so far")


def test_a_task_that_is_closed_leaves_the_screen(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    display = Display()
    assert display.is_terminal
    bars = [display.task(label, total=2, unit="shards") for label in ("embed", "index")]
    bars[0].update(2)
    bars[0].close()
    bars[1].update(1)
    assert [task.description for task in display._bars.tasks] == ["index"]
