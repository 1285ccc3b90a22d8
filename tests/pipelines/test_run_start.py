import pytest

from pipelines.run_start import say_start, schedule_text
from pipelines.telemetry import StepRate
from realm_core.storage.files import Store
from realm_core.training.run_folder import RunFolder
from realm_core.training.schedule import ScheduleConfig


def test_a_run_that_ends_inside_its_warmup_is_told():
    text = schedule_text(ScheduleConfig(num_steps=20, learning_rate=1e-4))
    assert text == "20 steps, rate 0.0001 after 100 (the run ends at 19% of it: see --num-warmup-steps)"


def test_a_run_that_reaches_its_rate_is_told_shortly():
    assert schedule_text(ScheduleConfig(num_steps=2_000)) == "2,000 steps, rate 3e-05 after 200"


def test_a_run_that_goes_on_says_from_where(tmp_path, capsys):
    run = RunFolder(Store(str(tmp_path / "store")), "a-run")
    say_start(run, ScheduleConfig(num_steps=200), "2 ranks")
    assert "goes on" not in capsys.readouterr().err
    run.save_checkpoint(40, lambda folder: (folder / "state.json").write_text("{}"), merit=None)
    say_start(run, ScheduleConfig(num_steps=200), "2 ranks")
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("a-run: 200 steps")
    assert "goes on from the checkpoint of step 40;" in said[1]


def test_the_rate_leaves_out_what_was_done_before_an_interruption():
    rate = StepRate()
    now = rate._since_seconds
    before = [{"step": step, "at_seconds": now - 1000 + step} for step in (13, 14)]
    assert rate.update(before) == 0.0
    assert rate.update([{"step": 11, "at_seconds": now + 100.0}]) == 0.0
    assert rate.update([{"step": 15, "at_seconds": now + 102.0}]) == pytest.approx(2.0)
    assert rate.update([*before, {"step": 21, "at_seconds": now + 105.0}]) == pytest.approx(2.0)
