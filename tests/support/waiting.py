"""Waiting for something to happen elsewhere."""

from __future__ import annotations

import time


def wait_until(is_so, what="what was waited for", *, seconds=600.0, every_seconds=0.05):
    """Fails the test where it is not so in time."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        time.sleep(every_seconds)
