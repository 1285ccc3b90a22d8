"""Attention inside each row of a pack.

Shapes: T tokens of a pack, B rows, A attention heads, d width of a head.
"""

# mypy: allow-untyped-calls
# torch leaves its variable-length attention unannotated.

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional

CLS_COPIES = 16
"""Queries of [CLS] are repeated so often: with a single one PyTorch splits the keys between threads, and bits would
depend on their number."""


@dataclass(frozen=True, slots=True)
class RowBounds:
    """Where the rows of a pack begin and end."""

    lengths: tuple[int, ...]
    stops_B1: Tensor
    """0, then where each row ends: int32 [B + 1], on the device."""

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths)


class RowAttention(Protocol):
    """Attention of each row to itself."""

    def all_tokens(self, query_TAd: Tensor, key_TAd: Tensor, value_TAd: Tensor, bounds: RowBounds) -> Tensor:
        """Context [T, A, d]; that of dummies has no meaning."""

    def first_tokens(self, query_BAd: Tensor, key_TAd: Tensor, value_TAd: Tensor, bounds: RowBounds) -> Tensor:
        """Context [B, A, d] of one query for each row."""


class OneRowAtATime:
    """PyTorch's fused attention, a call for each row: on a CPU, whose caches a row fits, nothing is quicker."""

    def all_tokens(self, query_TAd: Tensor, key_TAd: Tensor, value_TAd: Tensor, bounds: RowBounds) -> Tensor:
        """See `RowAttention`."""
        context_TAd = query_TAd.new_zeros(query_TAd.shape)
        start = 0
        for length in bounds.lengths:
            row = slice(start, start + length)
            context_TAd[row] = _attend(query_TAd[row], key_TAd[row], value_TAd[row])
            start += length
        return context_TAd

    def first_tokens(self, query_BAd: Tensor, key_TAd: Tensor, value_TAd: Tensor, bounds: RowBounds) -> Tensor:
        """See `RowAttention`."""
        contexts, start = [], 0
        for query_Ad, length in zip(query_BAd, bounds.lengths, strict=True):
            row = slice(start, start + length)
            copies = query_Ad.expand(CLS_COPIES, -1, -1)
            contexts.append(_attend(copies, key_TAd[row], value_TAd[row])[0])
            start += length
        return torch.stack(contexts)


class VariableLength:
    """One call of FlashAttention for all rows: bf16 on a GPU."""

    def all_tokens(self, query_TAd: Tensor, key_TAd: Tensor, value_TAd: Tensor, bounds: RowBounds) -> Tensor:
        """See `RowAttention`."""
        longest = bounds.longest
        return self._attend(query_TAd, key_TAd, value_TAd, bounds.stops_B1, bounds.stops_B1, longest, longest)

    def first_tokens(self, query_BAd: Tensor, key_TAd: Tensor, value_TAd: Tensor, bounds: RowBounds) -> Tensor:
        """See `RowAttention`."""
        query_stops_B1 = torch.arange(len(query_BAd) + 1, dtype=torch.int32, device=query_BAd.device)
        return self._attend(query_BAd, key_TAd, value_TAd, query_stops_B1, bounds.stops_B1, 1, bounds.longest)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        query_stops: Tensor,
        stops: Tensor,
        max_query: int,
        longest: int,
    ) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        return cast(Tensor, varlen_attn(query, key, value, query_stops, stops, max_query, longest))


def _attend(query_QAd: Tensor, key_LAd: Tensor, value_LAd: Tensor) -> Tensor:
    query, key, value = (states.transpose(0, 1)[None] for states in (query_QAd, key_LAd, value_LAd))
    return functional.scaled_dot_product_attention(query, key, value)[0].transpose(0, 1)
