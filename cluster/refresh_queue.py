"""Which encoder is refreshed to next: one is in work, one may wait, and the newest wins."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from realm_core.storage.encoder_pointer import EncoderVersion


class NewestFirst:
    """A mailbox of one: a newer encoder replaces the one that waits, and those passed over are remembered."""

    def __init__(self, *, newest_step: int = -1, cut_off: EncoderVersion | None = None) -> None:
        """Takes only encoders of later steps than `newest_step`; what was cut off is taken first, whatever comes."""
        self._condition = threading.Condition()
        self._in_work = cut_off
        self._is_cut_off = cut_off is not None
        self._waiting: EncoderVersion | None = None
        self._skipped: list[EncoderVersion] = []
        self._newest_step = newest_step

    def offer(self, encoder: EncoderVersion) -> bool:
        """Leaves an encoder; False when one of that step or a later one was left before (a replayed step)."""
        with self._condition:
            if encoder.step <= self._newest_step:
                return False
            if self._waiting is not None:
                self._skipped.append(self._waiting)
            self._waiting, self._newest_step = encoder, encoder.step
            self._condition.notify()
            return True

    def take(self) -> tuple[EncoderVersion, list[EncoderVersion]]:
        """Waits for an encoder; returns it with those that it passed over. It is in work until `done`."""
        with self._condition:
            if self._is_cut_off and self._in_work is not None:
                self._is_cut_off = False
                return self._in_work, []
            while self._waiting is None:
                self._condition.wait()
            encoder, skipped = self._waiting, self._skipped
            self._in_work, self._waiting, self._skipped = encoder, None, []
            return encoder, skipped

    def done(self) -> None:
        """What was taken has become of it what will."""
        with self._condition:
            self._in_work = None

    def in_work_and_waiting(self) -> tuple[EncoderVersion | None, EncoderVersion | None]:
        """The encoder that was taken last and is not done, and the one that waits."""
        with self._condition:
            return self._in_work, self._waiting
