import pytest

from cluster.freshness import Freshness, wait_until_fresh
from realm_core.errors import ServiceUnavailableError


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr("cluster.freshness.POLL_SECONDS", 0.0)


class Refresher:
    """Answers one after the other; the last one again and again."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.num_asked = 0

    def __call__(self):
        self.num_asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def fresh(live, coming, error=""):
    return Freshness(live_step=live, coming_step=coming, error=error)


@pytest.mark.parametrize(("live", "step"), [(0, 10), (5, 15), (20, 10)])
def test_a_snapshot_that_is_fresh_enough_is_not_waited_for(live, step):
    refresher = Refresher(fresh(live, live))
    wait = wait_until_fresh(refresher, step, max_staleness_steps=10)
    assert (wait.problem, refresher.num_asked) == ("", 1)


def test_a_refresh_under_way_is_waited_for():
    refresher = Refresher(fresh(0, 10), fresh(0, 20), fresh(10, 20))
    wait = wait_until_fresh(refresher, 15, max_staleness_steps=10)
    assert (wait.problem, refresher.num_asked) == ("", 3)
    assert wait.seconds >= 0


def test_a_refresh_that_fails_while_it_is_waited_for_ends_the_waiting():
    refresher = Refresher(fresh(0, 10), fresh(0, 0, "no room in the store"))
    wait = wait_until_fresh(refresher, 15, max_staleness_steps=10)
    assert "the live snapshot is of step 0, 5 was wanted; the last refresh failed: no room in the store" in wait.problem


def test_the_next_refresh_is_waited_for_where_one_has_failed():
    refresher = Refresher(fresh(0, 10, "NaN"), fresh(10, 10))
    assert wait_until_fresh(refresher, 15, max_staleness_steps=10).problem == ""


def test_a_bound_that_no_refresh_can_keep_is_no_reason_to_wait():
    wait = wait_until_fresh(Refresher(fresh(0, 4)), 15, max_staleness_steps=10)
    assert "no refresh from there is under way" in wait.problem


def test_a_refresher_that_is_gone_does_not_hold_training_up():
    gone = ServiceUnavailableError(where="refresher", found="dead", expected="alive", action="Look.")
    assert "does not answer" in wait_until_fresh(Refresher(gone), 15, max_staleness_steps=10).problem
