"""Waiting for a remote store that does not answer."""

from __future__ import annotations

import logging
import math
import os
import random
import time
from typing import TYPE_CHECKING, TypeVar

from realm_core.errors import UsageError
from realm_core.storage.failures import RETRY_VARIABLE, brief, is_transient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Result = TypeVar("Result")

RETRY_SECONDS = 300.0
"""For how long an operation of a remote store is tried, unless the environment says otherwise."""
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0


def retry_seconds() -> float:
    """What the environment says, else `RETRY_SECONDS`. Raises `UsageError` for what is no number of seconds."""
    text = os.environ.get(RETRY_VARIABLE, "")
    try:
        seconds = float(text or RETRY_SECONDS)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise UsageError(
            where=f"environment variable {RETRY_VARIABLE}",
            found=repr(text),
            expected="a number of seconds, 0 or more",
            action=f"Set it to such a number, or remove it: then it is {RETRY_SECONDS:g}.",
        )
    return seconds


def with_retries(call: Callable[[], Result], *, what: str, max_seconds: float) -> Result:
    """The result of `call`, which is repeated while it fails in passing, for at most `max_seconds`.

    Each wait is logged as a warning. `what` says in the log what is tried, as in "reading parts/x in store s3://bucket".

    Raises:
        Exception: what the last call raised.
    """
    deadline = time.monotonic() + max_seconds
    waits = wait_seconds(random.Random())  # noqa: S311 - spreads clients over time, nothing secret
    while True:
        try:
            return call()
        except Exception as error:
            left = deadline - time.monotonic()
            if left <= 0 or not is_transient(error):
                raise
            wait = min(next(waits), left)
            message = "%s failed (%s); trying again in %.1f s, for at most %.0f s more"
            logging.getLogger(__name__).warning(message, what, brief(error), wait, left)
        time.sleep(wait)


def wait_seconds(source: random.Random) -> Iterator[float]:
    """Waits that double up to `LONGEST_WAIT_SECONDS`, each shortened by up to a half at random."""
    longest = FIRST_WAIT_SECONDS
    while True:
        yield longest * source.uniform(0.5, 1.0)
        longest = min(2 * longest, LONGEST_WAIT_SECONDS)
