"""What is written down of a refresh, while it goes on and for ever after."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from realm_core.storage.encoder_pointer import EncoderVersion

Stage = Literal["embed", "index", "gate", "publish", "swap"]
RefreshStatus = Literal["running", "live", "failed"]


@dataclass(kw_only=True, slots=True)
class RefreshRecord:
    """What became of one refresh.

    It is live after `seconds["embed"]` and the sum of `seconds_after_embedding`.
    """

    step: int
    encoder_digest: str = ""
    encoder_saved_at_seconds: float = 0.0
    """When the encoder left training, since the epoch."""
    num_attempts: int = 1
    """More than one where the refresher's process died in it."""
    snapshot_id: str = ""
    status: RefreshStatus = "running"
    error: str = ""
    started_at_seconds: float = 0.0
    """Of the last attempt, since the epoch."""
    live_at_seconds: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    """Of each stage, from its begin to its end; those of the index begin while later parts are being embedded."""
    seconds_after_embedding: dict[str, float] = field(default_factory=dict)
    """What of each stage was not hidden behind embedding."""
    counts: dict[str, int] = field(default_factory=dict)
    recall_at: dict[str, float] = field(default_factory=dict)
    overlap_at_10: float | None = None
    """Share of the ten best blocks of the gate's queries that the snapshot before had among its ten best as well; None
    where that was not measured."""
    skipped_steps: list[int] = field(default_factory=list)
    """Checkpoints that this refresh passed over, because it was the newest when its turn came."""
    skipped_encoders: list[str] = field(default_factory=list)
    """Digests of their encoders."""
    garbage: dict[str, int] = field(default_factory=dict)
    """What was removed when it was live: `snapshots` and `bytes`."""

    @classmethod
    def of(cls, encoder: EncoderVersion, *, skipped: list[EncoderVersion], started_at_seconds: float) -> RefreshRecord:
        """A refresh that begins."""
        return cls(
            step=encoder.step,
            encoder_digest=encoder.digest,
            encoder_saved_at_seconds=encoder.saved_at_seconds,
            started_at_seconds=started_at_seconds,
            skipped_steps=[one.step for one in skipped],
            skipped_encoders=[one.digest for one in skipped],
        )

    @property
    def encoder(self) -> EncoderVersion:
        """What it refreshes to."""
        return EncoderVersion(
            digest=self.encoder_digest, step=self.step, saved_at_seconds=self.encoder_saved_at_seconds
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `RefreshRecord(**values)` is the inverse."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class StageProgress:
    """Where a running refresh is."""

    stage: Stage
    done: int
    total: int
