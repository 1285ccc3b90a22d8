"""Attention inside each row of a pack.

Shapes: T tokens of a pack, B rows, L tokens of a row, A attention heads, d width of a head.
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
"""A query of [CLS] is repeated so often: with a single one PyTorch splits the keys between threads, and bits would
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
    """Two batched products for each row: on a CPU, whose caches hold a row, quicker than PyTorch's fused attention."""

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
            contexts.append(_attend_from_first(query_Ad, key_TAd[row], value_TAd[row]))
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


def _attend(query_LAd: Tensor, key_LAd: Tensor, value_LAd: Tensor) -> Tensor:
    """[L, A, d] of the queries' type. In fp32 whatever the type: scores in bf16 would be coarse, and are no quicker."""
    query, key, value = (states.transpose(0, 1).float() for states in (query_LAd, key_LAd, value_LAd))
    nothing, scale = query.new_empty(1), query.shape[-1] ** -0.5
    scores_ALL = torch.baddbmm(nothing, query, key.transpose(1, 2), beta=0, alpha=scale)
    return torch.bmm(torch.softmax(scores_ALL, dim=-1), value).transpose(0, 1).to(query_LAd.dtype)


def _attend_from_first(query_Ad: Tensor, key_LAd: Tensor, value_LAd: Tensor) -> Tensor:
    """[A, d]."""
    copies_QAd = query_Ad.expand(CLS_COPIES, -1, -1)
    query, key, value = (states.transpose(0, 1)[None] for states in (copies_QAd, key_LAd, value_LAd))
    return functional.scaled_dot_product_attention(query, key, value)[0, :, 0]
