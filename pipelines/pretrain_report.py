"""What a pre-training run came to: the table at the end, and the page with its curves."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.freshness import POLL_SECONDS
from pipelines.report import ReportData
from realm_core.training.step_counts import StepCounts

if TYPE_CHECKING:
    from realm_core.training.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainReport:
    """What the run came to; the means are over all steps."""

    run_name: str
    num_steps: int
    loss_first: float
    loss_last: float
    retrieval_utility_last: float | None
    """None without a null document."""
    mean_staleness_steps: float
    max_staleness_steps: int
    wait_share: float
    """Of the step time: waiting for examples."""
    num_refreshes_live: int
    num_refreshes_failed: int
    last_refresh_error: str
    num_freshness_waits: int
    """Steps that waited for a fresher snapshot, as `--max-staleness-steps` asks."""
    freshness_wait_seconds: float
    num_swaps: int
    num_searches: int
    num_failed_searches: int
    live_snapshot_id: str
    live_staleness_steps: int
    best_step: int
    best_retrieval_utility: float | None
    """Mean over the steps before the best checkpoint, see `Merit`; None without a null document."""
    export: str
    """Where the best models lie in the published format: folders `embedder`, `scorer`, `encoder`."""
    num_seen: int
    """Blocks that a query was to be made of, over all ranks and steps: those used and those skipped."""
    num_used: int
    skipped: dict[str, int]
    """By reason."""
    recall: list[dict[str, Any]]
    was_done: bool

    def rows(self) -> list[tuple[str, object]]:
        """For the table at the end."""
        recall = [(f"recall@5 at step {r['encoder_step']}", f"{r['recall_at_5']:.3f}") for r in self.recall]
        return [
            ("run", self.run_name + (" (was done already)" if self.was_done else "")),
            ("steps", self.num_steps),
            ("loss, first and last tenth", f"{self.loss_first:.3f} -> {self.loss_last:.3f}"),
            ("retrieval utility, last tenth", utility_text(self.retrieval_utility_last)),
            ("blocks seen", f"{self.num_seen:,} = {self._by_fate()}"),
            ("waiting for examples", f"{self.wait_share:.1%} of the step time"),
            ("refreshes", f"{self.num_refreshes_live} live, {self.num_refreshes_failed} failed"),
            *([("last refresh that failed", self.last_refresh_error)] if self.last_refresh_error else []),
            ("swaps", self.num_swaps),
            ("searches", f"{self.num_searches:,}, {self.num_failed_searches:,} failed"),
            (
                "staleness while training",
                f"mean {self.mean_staleness_steps:.1f}, most {self.max_staleness_steps} steps",
            ),
            *self._waits(),
            ("live snapshot", f"{self.live_snapshot_id}, {self.live_staleness_steps} steps stale"),
            (
                "best checkpoint",
                f"step {self.best_step}, retrieval utility {utility_text(self.best_retrieval_utility)}",
            ),
            ("exported to", self.export),
            *recall,
        ]

    def _waits(self) -> list[tuple[str, object]]:
        if not self.num_freshness_waits:
            return []
        return [
            ("waited for fresher snapshots", f"{self.freshness_wait_seconds:.1f} s, {self.num_freshness_waits} steps")
        ]

    def _by_fate(self) -> str:
        skipped = [f"{count:,} {reason.replace('_', ' ')}" for reason, count in sorted(self.skipped.items())]
        return " + ".join([f"{self.num_used:,} used", *skipped])


def pretrain_report(run: RunFolder, *, was_done: bool) -> PretrainReport:
    """The report of a finished run, from what it logged."""
    steps, refreshes, result = run.read_metrics(), run.read_refreshes(), run.result() or {}
    tenth = max(1, len(steps) // 10)
    staleness = [step["staleness_steps"] for step in steps]
    waits = [step["wait_seconds"] for step in steps]
    busy = [step["forward_seconds"] + step["backward_seconds"] for step in steps]
    freshness_waits = [wait for step in steps if (wait := step["freshness_wait_seconds"]) >= POLL_SECONDS]
    counts = StepCounts.of_steps(steps)
    return PretrainReport(
        run_name=run.name,
        num_steps=len(steps),
        loss_first=_mean([step["loss"] for step in steps[:tenth]]),
        loss_last=_mean([step["loss"] for step in steps[-tenth:]]),
        retrieval_utility_last=_mean_or_none([step["retrieval_utility"] for step in steps[-tenth:]]),
        mean_staleness_steps=_mean(staleness),
        max_staleness_steps=max(staleness),
        wait_share=sum(waits) / (sum(waits) + sum(busy)),
        num_refreshes_live=sum(refresh["status"] == "live" for refresh in refreshes),
        num_refreshes_failed=sum(refresh["status"] == "failed" for refresh in refreshes),
        last_refresh_error=next((r["error"] for r in reversed(refreshes) if r["status"] == "failed"), ""),
        num_freshness_waits=len(freshness_waits),
        freshness_wait_seconds=sum(freshness_waits),
        num_swaps=result["num_swaps"],
        num_searches=result["num_searches"],
        num_failed_searches=result["num_failed_searches"],
        live_snapshot_id=result["live_snapshot"],
        live_staleness_steps=steps[-1]["step"] - result["live_step"],
        best_step=result["best_step"],
        best_retrieval_utility=result["best_retrieval_utility"],
        export=result["export"],
        num_seen=counts.num_seen,
        num_used=counts.num_used,
        skipped=counts.skipped,
        recall=run.read_recall(),
        was_done=was_done,
    )


def pretrain_page(run: RunFolder, report: PretrainReport) -> ReportData:
    """The page of a finished run, for `render_report`."""
    return ReportData(
        title=f"REALM pre-training, {run.name}",
        created_at=time.strftime("%Y-%m-%d %H:%M", time.localtime()),
        headline=_headline(report),
        counts=[("examples", example_counts(report.num_seen, report.num_used, report.skipped))],
        stages=[],
        warmup=[],
        steps=run.read_metrics(),
        refreshes=run.read_refreshes(),
        recall=report.recall,
        asked=[],
    )


def example_counts(num_seen: int, num_used: int, skipped: dict[str, int]) -> list[tuple[str, str]]:
    """Names and values of what became of the blocks seen; the later ones add up to the first."""
    by_reason = [(f"skipped: {reason.replace('_', ' ')}", f"{count:,}") for reason, count in sorted(skipped.items())]
    return [("blocks seen", f"{num_seen:,}"), ("used", f"{num_used:,}"), *by_reason]


def utility_text(value: float | None) -> str:
    """Retrieval utility for people."""
    return "not available without a null document" if value is None else f"{value:+.4f}"


def _headline(report: PretrainReport) -> list[tuple[str, str]]:
    recall = report.recall
    measured = [("recall@5 before", recall[0]), ("recall@5 after", recall[-1])] if recall else []
    return [
        *[(name, f"{record['recall_at_5']:.3f}") for name, record in measured],
        ("steps", f"{report.num_steps:,}"),
        ("refreshes live", str(report.num_refreshes_live)),
        ("mean staleness", f"{report.mean_staleness_steps:.0f} steps"),
        ("waiting for examples", f"{report.wait_share:.1%}"),
    ]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _mean_or_none(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _mean(known) if known else None
