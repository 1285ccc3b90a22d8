"""Sequences without their padding, one after the other.

Shapes: B sequences, L tokens, Q rows of a sequence, T packed tokens, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_PADDING = 0.05
"""Share of padding from which packing pays for its gathers."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedRows:
    """Where the T tokens of B sequences are in their padded [B, L] form."""

    lengths: tuple[int, ...]
    """Tokens of each sequence; their sum is T."""
    num_columns: int
    """L."""
    places_T: Tensor
    """Of each packed token: row * L + column."""

    @classmethod
    def of(cls, is_token_BL: Tensor) -> PackedRows:
        """The tokens that a mask [B, L] admits, in their order; the mask may have holes anywhere."""
        is_token_BL = is_token_BL.to(torch.bool)
        return cls(
            lengths=tuple(is_token_BL.sum(1).tolist()),
            num_columns=is_token_BL.shape[1],
            places_T=is_token_BL.flatten().nonzero()[:, 0],
        )

    @property
    def columns_T(self) -> Tensor:  # noqa: N802 - shape letters
        """The column of each packed token: its position, unless the caller gives others."""
        return self.places_T % self.num_columns

    def pack(self, values: Tensor) -> Tensor:
        """[B, L, ...] as [T, ...]."""
        return values.flatten(0, 1).index_select(0, self.places_T)

    def unpack(self, values: Tensor) -> Tensor:
        """[T, ...] as [B, L, ...], zero at padding."""
        padded = values.new_zeros(len(self.lengths) * self.num_columns, *values.shape[1:])
        return padded.index_copy(0, self.places_T, values).view(len(self.lengths), self.num_columns, *values.shape[1:])

    def gather(self, values: Tensor, positions_BQ: Tensor) -> Tensor:
        """Rows [B, Q, ...] of packed values [T, ...] at columns that hold tokens."""
        rows_B1 = torch.arange(positions_BQ.shape[0], device=positions_BQ.device).unsqueeze(1)
        packed_BQ = torch.searchsorted(self.places_T, rows_B1 * self.num_columns + positions_BQ)
        return values.index_select(0, packed_BQ.flatten()).view(*positions_BQ.shape, *values.shape[1:])


def packed_rows(attention_mask: Tensor | None, needed_BL: Tensor | None = None) -> PackedRows | None:
    """How to pack, or None where the padding had better stay.

    It stays without a mask of shape [B, L], with little padding, where a sequence has no token at all or a row that is
    needed is padding (its state is then what the padded form makes of it), on a GPU (whose attention takes one call for
    all sequences) and under `torch.compile` (which wants fixed shapes).

    Args:
        attention_mask: [B, L], nonzero at tokens.
        needed_BL: True at the rows whose states are read; by default the first of each sequence.
    """
    if attention_mask is None or attention_mask.dim() != 2 or attention_mask.device.type != "cpu":
        return None
    if torch.compiler.is_compiling():
        return None
    is_token_BL = attention_mask.to(torch.bool)
    if is_token_BL.float().mean() > 1 - LEAST_PADDING or not is_token_BL.any(1).all():
        return None
    reads_padding = ~is_token_BL[:, 0] if needed_BL is None else needed_BL & ~is_token_BL
    return None if bool(reads_padding.any()) else PackedRows.of(is_token_BL)
