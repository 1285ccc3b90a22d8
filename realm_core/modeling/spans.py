"""Span candidates of the reader: which there are, and which of them are answers.

Shapes: K evidence blocks, L tokens, S spans, W answers of a block (-1 where it has fewer); `...` any leading axes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def span_candidates(num_tokens: int, max_width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """First and last token [S] of every span of 1 to `max_width` tokens, narrow ones first, then from left to right."""
    starts = [torch.arange(num_tokens - width + 1, device=device) for width in range(1, max_width + 1)]
    return torch.cat(starts), torch.cat([start + width for width, start in enumerate(starts)])


def add_mask(scores: Tensor, is_admitted: Tensor) -> Tensor:
    """The scores, those not admitted as good as minus infinity: the least number of the type is added, as in 4.40.2."""
    return scores + (~is_admitted).to(scores.dtype) * torch.finfo(scores.dtype).min


def is_answer_span(starts_S: Tensor, ends_S: Tensor, answer_starts: Tensor, answer_ends: Tensor) -> Tensor:
    """True [..., K, S] where a span is one of its block's answers [..., K, W]."""
    is_start = starts_S == answer_starts.unsqueeze(-1)
    is_end = ends_S == answer_ends.unsqueeze(-1)
    return (is_start & is_end).any(-2)


def marginal_log_loss(scores: Tensor, is_correct: Tensor) -> Tensor:
    """Negative log of the share that correct entries of the last axis have; 0 where no entry is correct.

    ORQA's loss for retriever and reader (Lee et al. 2019, section 5): all correct candidates count together.
    """
    is_correct = is_correct | ~is_correct.any(-1, keepdim=True)
    return scores.logsumexp(-1) - add_mask(scores, is_correct).logsumexp(-1)
