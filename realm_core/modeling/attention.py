"""Attention, for padded and for packed sequences.

Shapes: B sequences, A heads, Q query rows, L tokens, T packed tokens, d width of a head.
"""

# mypy: allow-untyped-calls, allow-untyped-defs, allow-untyped-decorators
# torch leaves its autograd functions unannotated.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from realm_core.modeling.dropout import keep_mask, keep_share


def eager_attention(
    query_BAQd: Tensor,
    key_BALd: Tensor,
    value_BALd: Tensor,
    mask: Tensor | None,
    dropout_probability: float,
    head_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Context [B, A, Q, d] and attention weights [B, A, Q, L], after dropout and head mask as in 4.40.2.

    Args:
        query_BAQd: queries.
        key_BALd: keys.
        value_BALd: values.
        mask: added to the scores, broadcast to [B, A, Q, L].
        dropout_probability: of a weight.
        head_mask: factors, broadcast to [B, A, Q, L]; 0 switches a head off.
    """
    scores_BAQL = query_BAQd @ key_BALd.transpose(-1, -2) * query_BAQd.shape[-1] ** -0.5
    if mask is not None:
        scores_BAQL = scores_BAQL + mask
    weights_BAQL = functional.dropout(scores_BAQL.softmax(-1), dropout_probability, training=dropout_probability > 0)
    if head_mask is not None:
        weights_BAQL = weights_BAQL * head_mask
    return weights_BAQL @ value_BALd, weights_BAQL


def fused_attention(
    query_BAQd: Tensor, key_BALd: Tensor, value_BALd: Tensor, mask: Tensor | None, dropout_probability: float
) -> Tensor:
    """Context [B, A, Q, d], never keeping [B, A, Q, L] weights for the backward pass.

    PyTorch's fused attention does that by itself, but on a CPU only without dropout.
    """
    if mask is not None:
        mask = mask.expand(len(query_BAQd), *mask.shape[1:])
    on_cpu = query_BAQd.device.type == "cpu" and not torch.compiler.is_compiling()
    if on_cpu and mask is not None and torch.is_grad_enabled() and _hides_everything(mask):
        return eager_attention(query_BAQd, key_BALd, value_BALd, mask, dropout_probability)[0]
    if dropout_probability in (0, 1) or query_BAQd.device.type != "cpu" or torch.compiler.is_compiling():
        return functional.scaled_dot_product_attention(query_BAQd, key_BALd, value_BALd, mask, dropout_probability)
    masks: Sequence[Tensor | None] = [None] * len(query_BAQd) if mask is None else mask.unbind()
    sequences = zip(query_BAQd, key_BALd, value_BALd, masks, strict=True)
    return torch.stack([_dropout_attention(q, k, v, m, dropout_probability) for q, k, v, m in sequences])


def _hides_everything(mask: Tensor) -> bool:
    """Whether some row attends to nothing: PyTorch's fused backward pass on a CPU is wrong there."""
    return bool((mask == torch.finfo(mask.dtype).min).all(-1).any())


def packed_attention(
    query_RAd: Tensor,
    key_TAd: Tensor,
    value_TAd: Tensor,
    query_lengths: Sequence[int],
    key_lengths: Sequence[int],
    dropout_probability: float,
) -> Tensor:
    """Context [R, A, d] of packed sequences: each attends to its own tokens alone, with no mask and no padding.

    Args:
        query_RAd: query rows of all sequences, one sequence after the other.
        key_TAd: keys of all sequences.
        value_TAd: values of all sequences.
        query_lengths: query rows of each sequence.
        key_lengths: tokens of each sequence.
        dropout_probability: of a weight.
    """
    contexts = []
    for query, key, value in zip(
        query_RAd.transpose(0, 1).split(list(query_lengths), 1),
        key_TAd.transpose(0, 1).split(list(key_lengths), 1),
        value_TAd.transpose(0, 1).split(list(key_lengths), 1),
        strict=True,
    ):
        context_BAQd = fused_attention(query[None], key[None], value[None], None, dropout_probability)
        contexts.append(context_BAQd[0])
    return torch.cat(contexts, 1).transpose(0, 1)


def _dropout_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, probability: float) -> Tensor:
    return cast(Tensor, _DropoutAttention.apply(query, key, value, mask, probability))


class _DropoutAttention(torch.autograd.Function):
    """Attention of one sequence with dropout; the backward pass makes the weights and what is dropped again.

    What it keeps is queries, keys, values and a seed. A sequence at a time, the weights stay in the caches.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - of torch
        query_AQd: Tensor,
        key_ALd: Tensor,
        value_ALd: Tensor,
        mask: Tensor | None,
        probability: float,
    ) -> Tensor:
        ctx.probability, ctx.seed = probability, int(torch.randint(2**62, ()))
        ctx.save_for_backward(query_AQd, key_ALd, value_ALd, mask)
        weights_AQL = _weights(query_AQd, key_ALd, mask)
        return weights_AQL.mul_(_factors(weights_AQL, ctx)).to(value_ALd.dtype) @ value_ALd

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_AQd: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - of torch
        query_AQd, key_ALd, value_ALd, mask = ctx.saved_tensors
        weights_AQL = _weights(query_AQd, key_ALd, mask)
        factors_AQL = _factors(weights_AQL, ctx)
        grad_weights_AQL = (grad_AQd @ value_ALd.transpose(-1, -2)).to(weights_AQL.dtype).mul_(factors_AQL)
        grad_value_ALd = factors_AQL.mul_(weights_AQL).to(grad_AQd.dtype).transpose(-1, -2) @ grad_AQd
        grad_scores_AQL = torch._softmax_backward_data(grad_weights_AQL, weights_AQL, -1, weights_AQL.dtype)
        grad_scores_AQL = grad_scores_AQL.mul_(query_AQd.shape[-1] ** -0.5).to(query_AQd.dtype)
        return grad_scores_AQL @ key_ALd, grad_scores_AQL.transpose(-1, -2) @ query_AQd, grad_value_ALd, None, None


def _factors(weights_AQL: Tensor, ctx: Any) -> Tensor:  # noqa: ANN401 - of torch
    """0 where a weight is dropped, else what makes up for those that are."""
    is_kept_AQL = keep_mask(weights_AQL.shape, ctx.probability, torch.Generator().manual_seed(ctx.seed))
    return is_kept_AQL.to(weights_AQL.dtype).mul_(1 / keep_share(ctx.probability))


def _weights(query_AQd: Tensor, key_ALd: Tensor, mask: Tensor | None) -> Tensor:
    scores_AQL = query_AQd @ key_ALd.transpose(-1, -2)
    scores_AQL = scores_AQL.to(torch.promote_types(scores_AQL.dtype, torch.float32)) * query_AQd.shape[-1] ** -0.5
    weights_AQL: Tensor = (scores_AQL if mask is None else scores_AQL + mask).softmax(-1)
    return weights_AQL
