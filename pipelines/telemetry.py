"""What is seen of a pre-training run, as named numbers, for TensorBoard, the progress display and the report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]


class StepRate:
    """Steps per second since this process began to look: what a run took before it was interrupted does not count."""

    def __init__(self) -> None:
        self._since_seconds = time.time()
        self._first: Record | None = None

    def update(self, steps: Sequence[Record]) -> float:
        """With steps that are new, or all; 0.0 until two were seen."""
        own = [step for step in steps if step["at_seconds"] >= self._since_seconds]
        if not own:
            return 0.0
        self._first = self._first or own[0]
        seconds = own[-1]["at_seconds"] - self._first["at_seconds"]
        return float((own[-1]["step"] - self._first["step"]) / seconds) if seconds > 0 else 0.0


def step_scalars(step: Record) -> dict[str, float]:
    """The numbers of one training step, of all ranks together; what is not available is left out."""
    seconds = step["wait_seconds"] + step["forward_seconds"] + step["backward_seconds"]
    values = {
        "training/loss": step["loss"],
        "training/retrieval_utility": step["retrieval_utility"],
        "training/learning_rate": step.get("learning_rate"),
        "training/gradient_norm": step["gradient_norm"],
        "training/step_seconds": seconds,
        "training/tokens_per_second": tokens_per_second(step),
        "staleness/steps": step["staleness_steps"],
        "staleness/seconds": step["staleness_seconds"],
        "examples/queue_depth": step["batches_ready"],
        "examples/wait_seconds": step["wait_seconds"],
        "examples/seen": step["num_seen"],
        "examples/used": step["num_used"],
    }
    values |= {f"examples/skipped_{reason}": count for reason, count in step["skipped"].items()}
    return {name: float(value) for name, value in values.items() if value is not None}


def refresh_scalars(refresh: Record) -> dict[str, float]:
    """The numbers of one refresh, at the step of its encoder; of a failed one only that it failed."""
    if refresh["status"] != "live":
        return {"refresh/failed": 1.0}
    values = {f"refresh/{stage}_seconds": seconds for stage, seconds in refresh["seconds"].items()}
    values |= {
        "refresh/blocks_per_second": blocks_per_second(refresh),
        "refresh/overlap_at_10": refresh.get("overlap_at_10"),
        "refresh/failed": 0.0,
    }
    return {name: float(value) for name, value in values.items() if value is not None}


def recall_scalars(recall: Record) -> dict[str, float]:
    """The recall of one snapshot, at the step of its encoder."""
    return {"recall/at_5": recall["recall_at_5"], "recall/title_at_5": recall["title_recall_at_5"]}


def tokens_per_second(step: Record) -> float:
    """Tokens that all ranks read in a step, by the time that it took with its wait for examples."""
    seconds: float = step["wait_seconds"] + step["forward_seconds"] + step["backward_seconds"]
    return float(step["num_tokens"]) / seconds if seconds else 0.0


def blocks_per_second(refresh: Record) -> float | None:
    """Blocks that a refresh embedded, by the time of embedding; None where it failed or found all embedded."""
    seconds, num_blocks = refresh["seconds"].get("embed"), refresh["counts"].get("rows_made")
    return num_blocks / seconds if seconds and num_blocks else None
