"""Which rows go together into one forward pass.

A row's shape depends on the row alone: its length decides its bucket, and all batches of a bucket have one shape. With
the shape fixed, matrix products give a row the same bits beside any neighbours, so that embeddings can be
compared, reused and rebuilt bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from realm_core.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeGrid:
    """The batch shapes an engine may run."""

    bucket_step_tokens: int
    """Lengths are rounded up to multiples of this."""
    max_tokens_per_batch: int
    """Tokens of one batch, padding included: rows of a bucket = this // its length, at least 1."""
    max_length_tokens: int
    """The longest row, in tokens; the last bucket is exactly as long, even if it is no multiple of the step."""

    def __post_init__(self) -> None:
        fields = (self.bucket_step_tokens, self.max_tokens_per_batch, self.max_length_tokens)
        if min(fields) < 1:
            raise UsageError(
                where="shape grid",
                found=f"step {fields[0]}, budget {fields[1]} and longest row {fields[2]} tokens",
                expected="positive numbers",
                action="Set max_tokens_per_batch to at least 512.",
            )

    def bucket(self, length_tokens: int) -> int:
        """The padded length of a row."""
        steps = -(-length_tokens // self.bucket_step_tokens)
        return min(steps * self.bucket_step_tokens, self.max_length_tokens)

    def rows(self, bucket_tokens: int) -> int:
        """Rows of every batch of this bucket, dummies included."""
        return max(1, self.max_tokens_per_batch // bucket_tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Rows that share one forward pass."""

    indices: np.ndarray
    """Positions of the rows in the input; at most `num_rows`, the rest are dummies."""
    num_rows: int
    length_tokens: int


def plan_batches(lengths_tokens: Sequence[int] | np.ndarray, grid: ShapeGrid) -> Iterator[Batch]:
    """Batches that cover every row once, longest bucket first (so that memory peaks at once, not after hours).

    Raises:
        UsageError: a row is longer than the grid's longest.
    """
    lengths = np.asarray(lengths_tokens, dtype=np.int64)
    _check_lengths(lengths, grid)
    buckets = np.array([grid.bucket(length) for length in lengths.tolist()], dtype=np.int64)
    for bucket in sorted(set(buckets.tolist()), reverse=True):
        members, num_rows = np.flatnonzero(buckets == bucket), grid.rows(bucket)
        for start in range(0, len(members), num_rows):
            yield Batch(indices=members[start : start + num_rows], num_rows=num_rows, length_tokens=bucket)


def _check_lengths(lengths: np.ndarray, grid: ShapeGrid) -> None:
    if len(lengths) and lengths.max() > grid.max_length_tokens:
        row = int(lengths.argmax())
        raise UsageError(
            where=f"row {row} of {len(lengths)}",
            found=f"{lengths[row]} tokens with [CLS] and [SEP]",
            expected=f"at most {grid.max_length_tokens}, the positions the encoder has",
            action="Make shorter blocks, or cut the query, before embedding.",
        )
