from __future__ import annotations

import math

import pytest
import torch

from realm_core.errors import TrainingError
from realm_core.training.losses import inverse_cloze_loss, marginal_log_likelihood

LOG = math.log


def log_probs(values: list[list[list[float]]]) -> torch.Tensor:
    return torch.tensor(values).log()


def test_marginal_of_two_candidates_by_hand() -> None:
    """Candidate probabilities 1/4 and 3/4: token 1 has 0.1/4 + 0.5*3/4 = 0.4, token 2 has 0.2/4 + 0.2*3/4 = 0.2."""
    relevance_BN = torch.tensor([[0.0, LOG(3)]])
    result = marginal_log_likelihood(relevance_BN, log_probs([[[0.1, 0.2], [0.5, 0.2]]]), torch.tensor([[True, True]]))
    assert result.loss.item() == pytest.approx(-(LOG(0.4) + LOG(0.2)) / 2)
    assert result.retrieval_utility.item() == pytest.approx((LOG(0.4 / 0.1) + LOG(0.2 / 0.2)) / 2)
    assert result.num_masked_tokens.item() == 2


def test_the_mean_is_over_masked_tokens_and_not_over_queries() -> None:
    token_log_probs = log_probs([[[0.5, 0.5]], [[0.25, 0.9]]])
    masked = torch.tensor([[True, True], [True, False]])
    result = marginal_log_likelihood(torch.zeros(2, 1), token_log_probs, masked)
    assert result.loss.item() == pytest.approx((2 * LOG(2) + LOG(4)) / 3)


def test_one_candidate_gains_nothing_over_the_null_document() -> None:
    result = marginal_log_likelihood(torch.tensor([[3.0]]), log_probs([[[0.3]]]), torch.tensor([[True]]))
    assert result.loss.item() == pytest.approx(-LOG(0.3))
    assert result.retrieval_utility.item() == pytest.approx(0.0, abs=1e-6)


def test_gradient_reaches_relevance_and_favours_the_candidate_that_helps() -> None:
    """d loss / d relevance = prior - posterior: the posterior of candidate 1 is 0.375/0.4, its prior 3/4."""
    relevance_BN = torch.tensor([[0.0, LOG(3)]], requires_grad=True)
    result = marginal_log_likelihood(relevance_BN, log_probs([[[0.1], [0.5]]]), torch.tensor([[True]]))
    result.loss.backward()
    assert relevance_BN.grad is not None
    assert relevance_BN.grad[0].tolist() == pytest.approx([0.25 - 0.025 / 0.4, 0.75 - 0.375 / 0.4])
    assert not result.retrieval_utility.requires_grad


def test_poison_in_the_padding_reaches_neither_loss_nor_gradient() -> None:
    relevance_BN = torch.tensor([[0.0, LOG(3)]], requires_grad=True)
    clean = log_probs([[[0.1], [0.5]]])
    poisoned = torch.cat([clean, torch.full((1, 2, 1), math.nan)], dim=-1).requires_grad_()
    result = marginal_log_likelihood(relevance_BN, poisoned, torch.tensor([[True, False]]))
    result.loss.backward()
    assert result.loss.item() == pytest.approx(-LOG(0.4))
    assert result.retrieval_utility.item() == pytest.approx(LOG(4))
    assert poisoned.grad is not None
    assert poisoned.grad[0, :, 0].tolist() == pytest.approx([-0.025 / 0.4, -0.375 / 0.4])
    assert poisoned.grad[0, :, 1].tolist() == [0.0, 0.0]
    assert relevance_BN.grad is not None
    assert relevance_BN.grad.isfinite().all()


def test_a_batch_without_masks_has_loss_zero() -> None:
    relevance_BN = torch.zeros(1, 2, requires_grad=True)
    result = marginal_log_likelihood(relevance_BN, torch.zeros(1, 2, 3), torch.zeros(1, 3, dtype=torch.bool))
    result.loss.backward()
    assert (result.loss.item(), result.retrieval_utility.item(), result.num_masked_tokens.item()) == (0, 0, 0)
    assert relevance_BN.grad is not None
    assert relevance_BN.grad.tolist() == [[0, 0]]


def test_half_precision_is_summed_in_float32() -> None:
    relevance_BN = torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16)
    token_log_probs = torch.tensor([[[-1.0], [-2.0]]], dtype=torch.bfloat16)
    result = marginal_log_likelihood(relevance_BN, token_log_probs, torch.tensor([[True]]))
    prior = 1 / (1 + math.e)
    assert result.loss.dtype == torch.float32
    assert result.loss.item() == pytest.approx(-LOG(prior * math.exp(-1) + (1 - prior) * math.exp(-2)))


def test_inverse_cloze_loss_by_hand() -> None:
    """Relevance [[ln 3, 0], [0, 0]]: own-block probabilities 3/4 and 1/2; the tie goes to row 0, query 1 fails."""
    query_BD = torch.tensor([[LOG(3), 0.0], [0.0, 0.0]])
    block_RD = torch.eye(2)
    result = inverse_cloze_loss(query_BD, block_RD, torch.tensor([True, False]))
    assert result.loss.item() == pytest.approx(-(LOG(3 / 4) + LOG(1 / 2)) / 2)
    assert result.removed_accuracy.item() == 1.0
    assert result.kept_accuracy.item() == 0.0


def test_blocks_of_other_ranks_are_negatives() -> None:
    """Both ranks' mean loss over all four blocks is the one-rank loss."""
    generator = torch.Generator().manual_seed(0)
    query_BD, block_RD = torch.randn(4, 3, generator=generator), torch.randn(4, 3, generator=generator)
    removed_B = torch.tensor([True, True, False, True])
    whole = inverse_cloze_loss(query_BD, block_RD, removed_B)
    halves = [inverse_cloze_loss(query_BD[i : i + 2], block_RD, removed_B[i : i + 2], first_own_row=i) for i in (0, 2)]
    assert sum(half.loss.item() for half in halves) / 2 == pytest.approx(whole.loss.item())


def test_accuracy_of_no_queries_is_nan() -> None:
    result = inverse_cloze_loss(torch.eye(2), torch.eye(2), torch.tensor([True, True]))
    assert result.removed_accuracy.item() == 1.0
    assert math.isnan(result.kept_accuracy.item())


@pytest.mark.parametrize("first_own_row", [-1, 1])
def test_a_query_without_its_block_is_an_error(first_own_row: int) -> None:
    with pytest.raises(TrainingError, match="a block for each query"):
        inverse_cloze_loss(torch.eye(2), torch.eye(2), torch.tensor([True, True]), first_own_row=first_own_row)


def test_gradient_of_inverse_cloze_reaches_queries_and_blocks() -> None:
    query_BD, block_RD = torch.eye(2, requires_grad=True), torch.eye(2, requires_grad=True)
    inverse_cloze_loss(query_BD, block_RD, torch.tensor([True, True])).loss.backward()
    assert query_BD.grad is not None
    assert block_RD.grad is not None
    assert query_BD.grad.abs().sum() > 0
    assert block_RD.grad.abs().sum() > 0


def test_without_a_null_document_there_is_no_utility_and_the_loss_is_the_same() -> None:
    arguments = (torch.tensor([[0.0, LOG(3)]]), log_probs([[[0.1], [0.5]]]), torch.tensor([[True]]))
    result = marginal_log_likelihood(*arguments, has_null_document=False)
    assert result.retrieval_utility.isnan()
    assert result.loss.item() == pytest.approx(marginal_log_likelihood(*arguments).loss.item())
