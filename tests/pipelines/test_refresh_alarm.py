from cluster.refresher import RefresherStatus
from pipelines.refresh_alarm import RefreshAlarm


def status(*records):
    return RefresherStatus(None, 0, None, list(records), is_idle=True, is_ready=True)


def record(step, outcome, error="", started=1.0):
    return {"step": step, "status": outcome, "error": error, "started_at_seconds": started}


def test_a_refresh_that_failed_is_said_once_with_its_cause(capsys):
    alarm = RefreshAlarm()
    failed = record(20, "failed", "NaN in row 3")
    alarm.look(status(record(10, "live"), failed), [])
    alarm.look(status(record(10, "live"), failed, record(30, "running")), [])
    said = capsys.readouterr().err.splitlines()
    assert said == ["  refresh  FAILED from step 20, the live snapshot goes on: NaN in row 3"]
    alarm.look(status(record(20, "failed", "again", started=2.0)), [])
    assert "again" in capsys.readouterr().err


def test_steps_that_are_too_stale_are_said_when_it_begins_and_when_it_begins_again(capsys):
    alarm = RefreshAlarm()
    for step, problem in enumerate(["", "no refresh", "no refresh", "", "dead"], start=1):
        alarm.look(status(), [{"step": step, "freshness_problem": problem}])
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in said] == ["no refresh", "dead"]
    assert "step 2 is STALER than --max-staleness-steps" in said[0]
