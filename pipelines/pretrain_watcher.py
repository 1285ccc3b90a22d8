"""What the driver sees of a pre-training run: two progress lines, recall after each swap, totals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.display import say
from pipelines.recall import measure_recall_at_5
from pipelines.refresh_alarm import RefreshAlarm
from pipelines.telemetry import StepRate, tokens_per_second

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.refresher import RefresherClient, RefresherStatus
    from cluster.retrieval_service import RetrievalClient
    from pipelines.display import Bar, Display, Line
    from pipelines.tensorboard import TensorBoardLog
    from realm_core.evaluation.datasets import Question
    from realm_core.retrieval.evidence import EvidenceRetriever
    from realm_core.training.run_folder import RunFolder

TOTALS = ("num_swaps", "num_searches", "num_failed_searches")


class PretrainWatcher:
    """Looks at trainer, refresher and service; measures recall of each snapshot that goes live."""

    def __init__(
        self,
        *,
        run: RunFolder,
        refresher: RefresherClient,
        service: RetrievalClient,
        retriever: EvidenceRetriever,
        questions: Sequence[Question],
        num_steps: int,
        display: Display,
        tensorboard: TensorBoardLog | None,
    ) -> None:
        self._run = run
        self._refresher = refresher
        self._service = service
        self._retriever = retriever
        self._questions = questions
        self._display = display
        self._tensorboard = tensorboard
        self._last_step = 0
        self._rate = StepRate()
        self._training = display.task("pretrain", total=num_steps, unit="steps")
        self._refreshing: tuple[tuple[int, str], Line | Bar] | None = None
        self._alarm = RefreshAlarm()
        self._before = run.read_document("totals") or dict.fromkeys(TOTALS, 0)

    def look(self) -> None:
        """Shows the newest step and the running refresh, measures a snapshot that is new, copies to TensorBoard."""
        new_steps = self._show_training()
        status = self._refresher.status()
        self._show_refresh(status)
        self._alarm.look(status, new_steps)
        self._measure_new_snapshot()
        self._run.write_document("totals", self.totals())
        if self._tensorboard is not None:
            self._tensorboard.look()

    def close(self) -> None:
        """Writes out what TensorBoard has not got yet."""
        if self._tensorboard is not None:
            self._tensorboard.close()

    def totals(self) -> dict[str, int]:
        """Swaps and searches of the run, those before a crash included."""
        status = self._service.status()
        return {name: self._before[name] + getattr(status, name) for name in TOTALS}

    def _show_training(self) -> list[dict[str, Any]]:
        steps = self._run.read_metrics(after_step=self._last_step)
        if steps:
            self._last_step = steps[-1]["step"]
            for step in steps:
                if problem := step.get("resume_problem"):
                    say(f" pretrain  {problem}")
            self._training.update(self._last_step, note=step_note(steps[-1]), rate=self._rate.update(steps))
        return steps

    def _show_refresh(self, status: RefresherStatus) -> None:
        if status.progress is None:
            self._close_refresh()
            return
        key = (status.step, status.progress.stage)
        if self._refreshing is None or self._refreshing[0] != key:
            self._close_refresh()
            unit = "blocks" if status.progress.stage == "embed" else "shards"
            total = status.progress.total
            self._refreshing = (key, self._display.task(status.progress.stage, total=total, unit=unit))
        self._refreshing[1].update(status.progress.done, note=f"refresh from step {status.step}")

    def _close_refresh(self) -> None:
        """One bar is on the screen: a run of a hundred refreshes has five hundred."""
        if self._refreshing is not None:
            self._refreshing[1].close()
            self._refreshing = None

    def _measure_new_snapshot(self) -> None:
        live = self._service.live_snapshot()
        measured: set[str] = {record["snapshot_id"] for record in self._run.read_recall()}
        if not self._questions or live.snapshot_id in measured:
            return
        recall = measure_recall_at_5(self._retriever, self._questions)
        self._run.write_recall(recall.snapshot_id, recall.to_json())
        say(f" recall@5  {recall.recall_at_5:.3f} on {recall.num_questions} questions, {_which(recall.to_json())}")


def step_note(step: dict[str, Any]) -> str:
    """A step in a line, beside the rate and the time left."""
    utility = step["retrieval_utility"]
    facts = [
        f"loss {step['loss']:.3f}",
        *([] if utility is None else [f"utility {utility:+.3f}"]),
        f"{step['staleness_steps']} steps stale",
        f"{tokens_per_second(step):,.0f} tokens/s",
        f"{step['batches_ready']} batches ready",
    ]
    return "  ".join(facts)


def _which(recall: dict[str, Any]) -> str:
    return f"snapshot {recall['snapshot_id']} is live"
