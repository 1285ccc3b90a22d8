"""How far an embedding run is and how fast it goes: plain values, computed from what workers say."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from realm_core.engines.engine import Work

RATE_WINDOW_SECONDS = 30.0
"""Long enough to even out batches, short enough to show actors that join and leave."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedProgress:
    """Where a run is; for the display."""

    rows_done: int
    """Embedded or reused; never falls, though the part of a dead actor is done again."""
    rows_per_second: float
    """Rows embedded lately; those that were reused do not count."""
    tokens_per_second: float
    share_of_peak: float | None
    """Of what the devices in use can do in this arithmetic; None when unknown."""
    num_ready: int
    num_asked_for: int
    num_retries: int


@dataclass(slots=True)
class RateMeter:
    """Work per second over a moving window, and over all of the run."""

    _samples: deque[tuple[float, Work, float]] = field(default_factory=deque)
    _peak_flops: float = 0.0

    def add(self, now_seconds: float, work: Work, peak_flops_per_second: float) -> None:
        """Takes the work done by now, and the peak of the devices that do it from now on."""
        if self._samples:
            before, _, peak = self._samples[-1]
            self._peak_flops += peak * (now_seconds - before)
        self._samples.append((now_seconds, work, peak_flops_per_second))
        while len(self._samples) > 2 and now_seconds - self._samples[1][0] >= RATE_WINDOW_SECONDS:
            self._samples.popleft()

    def lately(self) -> tuple[Work, float]:
        """Work done in the window, and the seconds it took; (nothing, 0) at first."""
        if len(self._samples) < 2:
            return Work(), 0.0
        (first_seconds, first, _), (last_seconds, last, _) = self._samples[0], self._samples[-1]
        return last - first, last_seconds - first_seconds

    @property
    def peak_flops(self) -> float:
        """What the devices could have done in all the time that they were there."""
        return self._peak_flops


def share_of_peak(flops: float, peak_flops: float) -> float | None:
    """None where the peak is unknown."""
    return flops / peak_flops if peak_flops > 0 else None
