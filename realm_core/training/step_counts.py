"""What a training step was made of, in numbers that add up over ranks and over steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from realm_core.training.masking import SkipReason

if TYPE_CHECKING:
    from realm_core.training.example_generator import GeneratedBatch

REASONS = tuple(SkipReason)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCounts:
    """Counts of one step, or the sum of several: `num_seen = num_used + sum(skipped)`."""

    num_seen: int
    """Blocks that a query was to be made of."""
    num_used: int
    """Masked sentences that were trained on."""
    num_tokens: int
    """Tokens that the models read, padding left out: queries, candidates and joint inputs."""
    skipped: dict[str, int]
    """By reason (`SkipReason`); a reason that did not occur is left out."""

    @classmethod
    def of_batch(cls, batch: GeneratedBatch) -> StepCounts:
        """The counts of one rank's batch."""
        return cls(
            num_seen=batch.num_seen,
            num_used=len(batch.arrays.query_ids_BL),
            num_tokens=batch.arrays.num_tokens,
            skipped=dict(batch.skipped),
        )

    @classmethod
    def of_steps(cls, steps: Iterable[Mapping[str, Any]]) -> StepCounts:
        """The sum over logged steps, each with the keys of `to_json`."""
        rows = list(steps)
        skipped = sum((Counter(row["skipped"]) for row in rows), Counter[str]())
        seen, used, tokens = (sum(row[name] for row in rows) for name in ("num_seen", "num_used", "num_tokens"))
        return cls(num_seen=seen, num_used=used, num_tokens=tokens, skipped=dict(skipped))

    def to_vector(self) -> list[int]:
        """The counts in a fixed order, so that ranks can be summed."""
        return [self.num_seen, self.num_used, self.num_tokens, *(self.skipped.get(reason, 0) for reason in REASONS)]

    @classmethod
    def from_vector(cls, values: Sequence[int]) -> StepCounts:
        """The counts of `to_vector`, or of a sum of such."""
        seen, used, tokens, *by_reason = values
        skipped = {str(reason): count for reason, count in zip(REASONS, by_reason, strict=True) if count}
        return cls(num_seen=seen, num_used=used, num_tokens=tokens, skipped=skipped)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as a step's line has them."""
        return {
            "num_seen": self.num_seen,
            "num_used": self.num_used,
            "num_tokens": self.num_tokens,
            "skipped": self.skipped,
        }
