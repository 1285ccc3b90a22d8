"""Records of a pre-training run as it logs them."""


def logged_step(step, **changes):
    return {
        "step": step, "at_seconds": 1000.0 + step, "loss": 5.0 - step, "retrieval_utility": 0.25,
        "snapshot_id": "step-000000-abc", "staleness_steps": step - 1, "staleness_seconds": 3.5, "gradient_norm": 0.5,
        "masked_tokens": 4, "batches_ready": 2, "num_seen": 5, "num_used": 3, "num_tokens": 600,
        "skipped": {"no_salient_span": 2}, "wait_seconds": 0.5, "forward_seconds": 1.0, "backward_seconds": 1.5,
        "freshness_wait_seconds": 0.0, "freshness_problem": "",
        **changes,
    }  # fmt: skip


def live_refresh(step, **changes):
    return {
        "step": step, "snapshot_id": f"step-{step:06d}-abc", "status": "live", "error": "",
        "started_at_seconds": 1000.0, "live_at_seconds": 1010.0,
        "seconds": {"embed": 4.0, "index": 1.0, "publish": 0.5, "swap": 0.25},
        "counts": {"rows": 400, "rows_made": 200}, "recall_at": {"recall@10": 0.97}, "overlap_at_10": 0.8,
        "skipped_steps": [], **changes,
    }  # fmt: skip


def measured_recall(step, share):
    return {
        "snapshot_id": f"step-{step:06d}-abc", "encoder_step": step, "recall_at_5": share,
        "title_recall_at_5": share + 0.25, "num_questions": 100,
    }  # fmt: skip
