from __future__ import annotations

from realm_core.training.masking import SkipReason
from realm_core.training.step_counts import StepCounts

ONE = StepCounts(num_seen=5, num_used=3, num_tokens=70, skipped={"no_salient_span": 2})
OTHER = StepCounts(num_seen=4, num_used=3, num_tokens=90, skipped={"mask_truncated": 1})


def test_ranks_are_summed_as_vectors() -> None:
    total = [a + b for a, b in zip(ONE.to_vector(), OTHER.to_vector(), strict=True)]
    assert StepCounts.from_vector(total) == StepCounts(
        num_seen=9, num_used=6, num_tokens=160, skipped={"no_salient_span": 2, "mask_truncated": 1}
    )


def test_every_reason_survives_the_trip() -> None:
    counts = StepCounts(num_seen=0, num_used=0, num_tokens=0, skipped={str(r): n for n, r in enumerate(SkipReason, 1)})
    assert StepCounts.from_vector(counts.to_vector()) == counts


def test_logged_steps_add_up() -> None:
    steps = [{"step": 1, "loss": 2.0, **ONE.to_json()}, {"step": 2, "loss": 1.0, **OTHER.to_json()}]
    total = StepCounts.of_steps([*steps, steps[0]])
    assert total.skipped == {"no_salient_span": 4, "mask_truncated": 1}
    assert total.num_seen == total.num_used + sum(total.skipped.values()) == 14


def test_a_run_of_no_steps_has_seen_nothing() -> None:
    assert StepCounts.of_steps([]) == StepCounts(num_seen=0, num_used=0, num_tokens=0, skipped={})
