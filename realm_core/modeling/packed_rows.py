"""Sequences without their padding, one after the other.

Shapes: B sequences, L tokens, Q rows of a sequence, T packed tokens, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TOKENS_AT_A_TIME = 2048
"""Packed tokens that go through all layers together where no gradient is wanted: 25 MB in BERT-base's widest layer.
Wider values are slower for each token, since a CPU's memory allocator gets them from the operating system anew."""
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
    first_row: int = 0
    """Row of the first sequence, in a group of more."""

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

    @property
    def rows(self) -> slice:
        """The rows of the padded form that the sequences are."""
        return slice(self.first_row, self.first_row + len(self.lengths))

    def groups(self, max_tokens: int) -> list[PackedRows]:
        """Groups of consecutive sequences with at most so many tokens, or of one that has more."""
        groups: list[PackedRows] = []
        first, start = 0, 0
        while first < len(self.lengths):
            last, stop = first + 1, start + self.lengths[first]
            while last < len(self.lengths) and stop + self.lengths[last] - start <= max_tokens:
                stop += self.lengths[last]
                last += 1
            places_T = self.places_T[start:stop]
            groups.append(PackedRows(self.lengths[first:last], self.num_columns, places_T, self.first_row + first))
            first, start = last, stop
        return groups

    def pack(self, values: Tensor) -> Tensor:
        """[B, L, ...] as [T, ...]."""
        return values.flatten(0, 1).index_select(0, self.places_T)

    def unpack(self, values: Tensor) -> Tensor:
        """[T, ...] as [B, L, ...], zero at padding."""
        padded = values.new_zeros(len(self.lengths) * self.num_columns, *values.shape[1:])
        return padded.index_copy(0, self.places_T, values).view(len(self.lengths), self.num_columns, *values.shape[1:])

    def gather(self, values: Tensor, positions_BQ: Tensor) -> Tensor:
        """Rows [B, Q, ...] of packed values [T, ...] at columns that hold tokens."""
        rows_B1 = torch.arange(self.rows.start, self.rows.stop, device=positions_BQ.device).unsqueeze(1)
        packed_BQ = torch.searchsorted(self.places_T, rows_B1 * self.num_columns + positions_BQ)
        return values.index_select(0, packed_BQ.flatten()).view(*positions_BQ.shape, *values.shape[1:])


def for_each_row(values: Tensor | None, num_rows: int) -> Tensor | None:
    """[1, ...] as [num_rows, ...], as arithmetic would broadcast it; other values stay as they are."""
    return values if values is None or len(values) != 1 else values.expand(num_rows, *values.shape[1:])


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
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return None
    is_token_BL = attention_mask.to(torch.bool)
    if is_token_BL.float().mean() > 1 - LEAST_PADDING or not is_token_BL.any(1).all():
        return None
    reads_padding = ~is_token_BL[:, 0] if needed_BL is None else needed_BL & ~is_token_BL
    return None if bool(reads_padding.any()) else PackedRows.of(is_token_BL)
