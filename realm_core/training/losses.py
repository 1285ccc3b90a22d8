"""Losses of pre-training and of the warm-up.

Shapes: B queries, N candidates, M masked positions, D projection, R rows (blocks of all ranks).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from realm_core.errors import TrainingError


@dataclass(frozen=True, slots=True)
class RealmLoss:
    """Scalars of one pre-training batch."""

    loss: Tensor
    """Negative log marginal likelihood per masked token; carries the gradient."""
    retrieval_utility: Tensor
    """What retrieval gains over the null document, in nats per masked token; detached. NaN without a null document."""
    num_masked_tokens: Tensor
    """Masked tokens averaged over: the weight of this batch when batches are averaged."""


@dataclass(frozen=True, slots=True)
class InverseClozeLoss:
    """Scalars of one warm-up batch."""

    loss: Tensor
    """Cross entropy of the own block among all blocks; carries the gradient."""
    removed_accuracy: Tensor
    """Share of queries whose own block scores highest, among those removed from it; NaN if there are none."""
    kept_accuracy: Tensor
    """The same, among those left in their block; NaN if there are none."""


def marginal_log_likelihood(
    relevance_BN: Tensor, token_log_probs_BNM: Tensor, is_masked_BM: Tensor, *, has_null_document: bool = True
) -> RealmLoss:
    """Loss of predicting each masked token with the candidate marginalized out (REALM, equation 1).

    `token_log_probs_BNM` are the log probabilities of the true tokens under each candidate, candidate 0 being the null
    document if `has_null_document`. As in the reference the sum over candidates is taken for each masked token by
    itself, and the mean over all masked tokens of the batch; a batch without any has loss 0. Computed in float32.
    Retrieval utility is equation 2 of the paper.
    """
    # Filled before any arithmetic: whatever stands in the padding, NaN too, reaches neither loss nor gradient.
    token_log_probs_BNM = token_log_probs_BNM.float().masked_fill(~is_masked_BM[:, None, :], 0.0)
    candidate_log_probs_BN = relevance_BN.float().log_softmax(dim=-1)
    marginal_BM = torch.logsumexp(candidate_log_probs_BN[:, :, None] + token_log_probs_BNM, dim=1)
    without_retrieval_BM = token_log_probs_BNM[:, 0] if has_null_document else torch.full_like(marginal_BM, torch.nan)
    utility_BM = (marginal_BM - without_retrieval_BM).detach()
    num_masked_tokens = is_masked_BM.sum()
    divisor = num_masked_tokens.clamp(min=1)
    return RealmLoss(
        loss=-(marginal_BM * is_masked_BM).sum() / divisor,
        retrieval_utility=(utility_BM * is_masked_BM).sum() / divisor,
        num_masked_tokens=num_masked_tokens,
    )


def inverse_cloze_loss(
    query_BD: Tensor, block_RD: Tensor, is_removed_B: Tensor, *, first_own_row: int = 0
) -> InverseClozeLoss:
    """Softmax cross entropy of relevance over all blocks at hand (ORQA, section 4).

    Query i's block is row `first_own_row + i`; all other rows are its negatives. With several ranks give the blocks of
    all of them, in rank order, and `rank * B`.
    """
    if first_own_row < 0 or first_own_row + len(query_BD) > len(block_RD):
        raise TrainingError(
            where="inverse_cloze_loss",
            found=f"{len(query_BD)} queries whose blocks begin at row {first_own_row} of {len(block_RD)}",
            expected="a block for each query",
            action="Gather the blocks of all ranks in rank order and pass rank * B as first_own_row.",
        )
    relevance_BR = query_BD.float() @ block_RD.float().T
    own_row_B = torch.arange(first_own_row, first_own_row + len(query_BD), device=query_BD.device)
    is_correct_B = (relevance_BR.argmax(dim=-1) == own_row_B).float()
    return InverseClozeLoss(
        loss=cross_entropy(relevance_BR, own_row_B),
        removed_accuracy=is_correct_B[is_removed_B].mean(),
        kept_accuracy=is_correct_B[~is_removed_B].mean(),
    )
