"""Which rows go together into one forward pass without padding.

Packed rows lie one after the other in a pack of a fixed number of tokens. Matrix products see the pack alone, whose
shape never changes, and attention sees one row at a time: so a row's bits do not depend on its neighbours.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """Rows that share one forward pass."""

    rows: np.ndarray
    """Numbers of the rows in the input, in their order inside the pack."""
    num_tokens: int
    """Of all rows."""
    capacity_tokens: int
    """What the pack is filled up to with dummies."""


def plan_packs(lengths_R: np.ndarray, capacity_tokens: int) -> Iterator[Pack]:
    """Packs that hold every row once: each starts with the longest row left and takes the longest that still fits.

    A row longer than the capacity goes into packs of the smallest multiple of it that is long enough.

    Args:
        lengths_R: tokens of each row, at least 1.
        capacity_tokens: of a pack.
    """
    multiples_R = -(-lengths_R // capacity_tokens)
    for multiple in np.unique(multiples_R)[::-1].tolist():
        members = np.flatnonzero(multiples_R == multiple)
        for rows in _filled(lengths_R, members, multiple * capacity_tokens):
            yield Pack(
                rows=rows, num_tokens=int(lengths_R[rows].sum()), capacity_tokens=int(multiple * capacity_tokens)
            )


def in_mixed_order(values: Sequence[Value]) -> list[Value]:
    """All values in an order that is drawn at random, the same each time: long and short rows then alternate, so that
    the rate of any stretch is that of the whole, and an estimate of what is left is right from the start."""
    return [values[place] for place in np.random.default_rng(0).permutation(len(values))]


def _filled(lengths_R: np.ndarray, members: np.ndarray, capacity_tokens: int) -> Iterator[np.ndarray]:
    waiting = _by_length(lengths_R, members)
    lengths = sorted(waiting)
    while lengths:
        rows, room = [], capacity_tokens
        while (place := bisect_right(lengths, room) - 1) >= 0:
            length = lengths[place]
            rows.append(waiting[length].pop())
            room -= length
            if not waiting[length]:
                del lengths[place]
        yield np.array(rows, dtype=np.int64)


def _by_length(lengths_R: np.ndarray, members: np.ndarray) -> dict[int, list[int]]:
    """The rows of each length, the first row last, where `pop` takes it."""
    waiting: dict[int, list[int]] = {}
    for row, length in zip(members[::-1].tolist(), lengths_R[members[::-1]].tolist(), strict=True):
        waiting.setdefault(length, []).append(row)
    return waiting
