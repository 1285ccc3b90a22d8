"""Whether training may take a step: `--max-staleness-steps`, seen from the refresher and from a trainer rank."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from realm_core.errors import RealmError

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
"""Between two questions of a rank that waits: a refresh takes minutes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Freshness:
    """How fresh searches are, and how fresh they can become without another checkpoint."""

    live_step: int
    """Step of the live snapshot's encoder."""
    coming_step: int
    """Of the newest encoder that is live, in work, or waits for its turn."""
    error: str
    """Why the last refresh failed; empty where it did not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FreshnessWait:
    """What became of waiting, for the step's line in the metrics."""

    seconds: float
    problem: str
    """Why training goes on staler than it should; empty where the live snapshot is fresh enough."""


def wait_until_fresh(ask: Callable[[], Freshness], step: int, *, max_staleness_steps: int) -> FreshnessWait:
    """Returns when the live snapshot is at most so many steps staler than `step`, or when no refresh that is under way
    can make it so: after a failure training goes on with the live snapshot, and says so.

    Args:
        ask: the refresher; its errors are a reason to go on too.
        step: of training, counted as encoders' steps are.
        max_staleness_steps: what is allowed.
    """
    wanted_step = step - max_staleness_steps
    started = time.monotonic()
    problem, is_waiting = "", False
    while True:
        try:
            now = ask()
        except RealmError as error:
            problem = f"the refresher does not answer: {error}"
            break
        if now.live_step >= wanted_step:
            break
        if now.coming_step < wanted_step:
            why = f"the last refresh failed: {now.error}" if now.error else "no refresh from there is under way"
            problem = f"the live snapshot is of step {now.live_step}, {wanted_step} was wanted; {why}"
            break
        if not is_waiting:
            logger.info("step %d waits for a snapshot of step %d; live is %d", step, wanted_step, now.live_step)
            is_waiting = True
        time.sleep(POLL_SECONDS)
    if problem:
        logger.error("step %d is taken all the same: %s", step, problem)
    return FreshnessWait(seconds=time.monotonic() - started, problem=problem)
