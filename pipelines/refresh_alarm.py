"""Saying it when training goes on with an index that should be fresher: once for each cause."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.display import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.refresher import RefresherStatus


class RefreshAlarm:
    """Looks at the refresher's records and at training's newest step."""

    def __init__(self) -> None:
        self._said: set[tuple[int, float]] = set()
        self._problem = ""

    def look(self, status: RefresherStatus, steps: Sequence[dict[str, Any]]) -> None:
        """Says what is new: refreshes that failed, and among the new steps one that was staler than it should be."""
        for record in status.records:
            key = (record["step"], record["started_at_seconds"])
            if record["status"] == "failed" and key not in self._said:
                self._said.add(key)
                say(f"  refresh  FAILED from step {record['step']}, the live snapshot goes on: {record['error']}")
        if not steps:
            return
        problem = steps[-1]["freshness_problem"]
        if problem and not self._problem:
            say(f" pretrain  step {steps[-1]['step']} is STALER than --max-staleness-steps: {problem}")
        self._problem = problem
