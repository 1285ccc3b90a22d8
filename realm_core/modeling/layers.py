"""The modules of the encoder: embeddings, attention, layers, pooler.

States are padded, [B, L, H], or packed, [T, H]; every module but attention treats each row by itself and takes both.

Shapes: B sequences, L tokens, T packed tokens, Q query rows, R all query rows, H hidden, A attention heads, d width of
a head; `...` is B, L or T.
"""

# mypy: allow-untyped-calls
# transformers and torch leave some methods unannotated.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from realm_core.modeling.attention import eager_attention, fused_attention, packed_attention
from realm_core.modeling.configuration import RealmConfig
from realm_core.modeling.dropout import RealmDropout
from realm_core.modeling.packed_rows import PackedRows

OWN_ATTENTION = ("eager", "sdpa")
"""Implementations of this package; others are those of transformers."""


def activation_of(config: RealmConfig) -> Callable[[Tensor], Tensor]:
    """The activation of the configuration."""
    return activation_function(config.hidden_act)


def activation_function(hidden_act: Any) -> Callable[[Tensor], Tensor]:  # noqa: ANN401 - a name or a function
    """The activation: a name that transformers knows, or a function.

    `gelu_new` is PyTorch's tanh form of GELU: the same formula in one pass over memory instead of eight.
    """
    if callable(hidden_act):
        return cast("Callable[[Tensor], Tensor]", hidden_act)
    name = "gelu_pytorch_tanh" if hidden_act == "gelu_new" else hidden_act
    return cast("Callable[[Tensor], Tensor]", ACT2FN[name])


@dataclass(frozen=True, slots=True, eq=False)
class AttentionScope:
    """What each query row attends to: the tokens of its own sequence."""

    mask: Tensor | None = None
    """Padded states only. Added to the scores, [B, 1, 1, L] or [B, 1, L, L]; or what another implementation takes."""
    packed: PackedRows | None = None
    """How packed states divide into sequences; None for padded ones."""
    head_masks: Tensor | None = None
    """Factors on the weights of each layer's heads, [layers, 1, A, 1, 1]."""
    output_attentions: bool = False

    def of_rows(self, positions_BQ: Tensor) -> AttentionScope:
        """The scope of some rows of padded states: of a mask per row, theirs."""
        if self.mask is None or self.mask.shape[2] == 1:
            return self
        mask = self.mask.expand(len(positions_BQ), -1, -1, -1)
        index = positions_BQ[:, None, :, None].expand(-1, -1, -1, mask.shape[3])
        return replace(self, mask=mask.gather(2, index))

    def head_mask(self, layer: int) -> Tensor | None:
        """The factors of one layer."""
        return None if self.head_masks is None else self.head_masks[layer]


class RealmEmbeddings(nn.Module):
    """Word, position and token-type embeddings, summed and normalized."""

    def __init__(self, config: RealmConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = RealmDropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [..., H] of token ids [...], or of word embeddings [..., H] in their place.

        Positions are 0, 1, 2 … along the last axis of the ids unless they are given, as they must be for packed ids.
        """
        words = self._words(input_ids, inputs_embeds)
        if position_ids is None:
            position_ids = torch.arange(words.shape[-2], device=words.device)
        if token_type_ids is None:
            token_type_ids = torch.zeros(words.shape[:-1], dtype=torch.long, device=words.device)
        embedded = words + self.token_type_embeddings(token_type_ids) + self.position_embeddings(position_ids)
        return cast(Tensor, self.dropout(self.LayerNorm(embedded)))

    def _words(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass either input_ids or inputs_embeds, and not both")
        return cast(Tensor, inputs_embeds if input_ids is None else self.word_embeddings(input_ids))


class RealmSelfAttention(nn.Module):
    """Multi-head attention; its queries may come from fewer rows than its keys and values."""

    is_causal = False  # read by the attention implementations of transformers

    def __init__(self, config: RealmConfig, layer_index: int) -> None:
        super().__init__()
        self.config = config
        self.layer_index = layer_index
        self.num_heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = RealmDropout(config.attention_probs_dropout_prob)

    def forward(self, rows: Tensor, hidden: Tensor, scope: AttentionScope) -> tuple[Tensor, Tensor | None]:
        """Context of the query rows, shaped like them, and on request attention weights [B, A, Q, L].

        Args:
            rows: query rows [B, Q, H], or all rows of packed states [T, H].
            hidden: states [B, L, H] or [T, H] that are attended to.
            scope: which of them each row attends to.
        """
        query, key, value = (
            self._heads(self.query(rows)),
            self._heads(self.key(hidden)),
            self._heads(self.value(hidden)),
        )
        dropout = self.dropout.p if self.training else 0.0
        if scope.packed is not None:
            context, weights = self._packed(query, key, value, scope.packed, dropout), None
        else:
            context, weights = self._padded(query, key, value, scope, dropout)
        return context.reshape(rows.shape), weights

    def _heads(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:-1], self.num_heads, -1)

    def _packed(self, query: Tensor, key_TAd: Tensor, value_TAd: Tensor, packed: PackedRows, dropout: float) -> Tensor:
        lengths = packed.lengths
        query_lengths = lengths if query.dim() == 3 else (query.shape[1],) * len(lengths)
        query_RAd = query if query.dim() == 3 else query.flatten(0, 1)
        return packed_attention(query_RAd, key_TAd, value_TAd, query_lengths, lengths, dropout)

    def _padded(
        self, query_BQAd: Tensor, key_BLAd: Tensor, value_BLAd: Tensor, scope: AttentionScope, dropout: float
    ) -> tuple[Tensor, Tensor | None]:
        query, key, value = (states.transpose(1, 2) for states in (query_BQAd, key_BLAd, value_BLAd))
        implementation, head_mask = self.config._attn_implementation, scope.head_mask(self.layer_index)
        if scope.output_attentions or head_mask is not None or implementation == "eager":
            context_BAQd, weights = eager_attention(query, key, value, scope.mask, dropout, head_mask)
            return context_BAQd.transpose(1, 2), weights if scope.output_attentions else None
        if implementation in OWN_ATTENTION:
            return fused_attention(query, key, value, scope.mask, dropout).transpose(1, 2), None
        attend = ALL_ATTENTION_FUNCTIONS[implementation]
        scaling = query.shape[-1] ** -0.5
        return attend(self, query, key, value, scope.mask, dropout=dropout, scaling=scaling)[0], None


class RealmResidualOutput(nn.Module):
    """The end of both half-layers: project, drop out, add what came in, normalize."""

    def __init__(self, config: RealmConfig, input_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(input_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = RealmDropout(config.hidden_dropout_prob)

    def forward(self, states: Tensor, residual: Tensor) -> Tensor:
        """Hidden states [..., H]."""
        return self.finish(self.dense(states), residual)

    def finish(self, projected: Tensor, residual: Tensor) -> Tensor:
        """What comes after the projection."""
        return cast(Tensor, self.LayerNorm(self.dropout(projected) + residual))


class RealmAttention(nn.Module):
    """Self-attention and its residual output, under the names of the published checkpoints."""

    def __init__(self, config: RealmConfig, layer_index: int) -> None:
        super().__init__()
        self.self = RealmSelfAttention(config, layer_index)
        self.output = RealmResidualOutput(config, config.hidden_size)


class RealmIntermediate(nn.Module):
    """The wide, activated half of the feed-forward network."""

    def __init__(self, config: RealmConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = activation_of(config)

    def forward(self, states: Tensor) -> Tensor:
        """Activations, `intermediate_size` wide."""
        return self.activation(self.dense(states))


class RealmLayer(GradientCheckpointingLayer):
    """One Transformer layer, for all rows or only for those whose output is needed."""

    def __init__(self, config: RealmConfig, layer_index: int) -> None:
        super().__init__()
        self.attention = RealmAttention(config, layer_index)
        self.intermediate = RealmIntermediate(config)
        self.output = RealmResidualOutput(config, config.intermediate_size)

    def forward(self, rows: Tensor, hidden: Tensor, scope: AttentionScope) -> tuple[Tensor, Tensor | None]:
        """New states of the query rows, shaped like them, and attention weights if asked; see RealmSelfAttention."""
        context, weights = self.attention.self(rows, hidden, scope)
        attended = self.attention.output(context, rows)
        is_made_again = self.gradient_checkpointing and self.training  # the whole layer, from its input
        if not torch.is_grad_enabled() or torch.compiler.is_compiling() or is_made_again:
            return self.output(self.intermediate(attended), attended), weights
        wide = self.intermediate.dense(attended)
        projected = checkpoint(self._activate_and_project, wide, use_reentrant=False)
        return self.output.finish(projected, attended), weights

    def _activate_and_project(self, wide: Tensor) -> Tensor:
        """Under `checkpoint`, so that the activations, the widest values of a layer, are made again and not kept."""
        return cast(Tensor, self.output.dense(self.intermediate.activation(wide)))


class RealmEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: RealmConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([RealmLayer(config, index) for index in range(config.num_hidden_layers)])

    def forward(self, hidden: Tensor, scope: AttentionScope, output_hidden_states: bool = False) -> BaseModelOutput:
        """States of all rows after the last layer; on request those of every layer, and attention weights."""
        states, weights = [hidden], []
        for layer in self.layer:
            hidden, weights_BALL = layer(hidden, hidden, scope)
            states.append(hidden)
            weights.append(weights_BALL)
        return BaseModelOutput(
            last_hidden_state=hidden,
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(weights) if scope.output_attentions else None,
        )

    def states_at(self, hidden: Tensor, scope: AttentionScope, positions_BQ: Tensor) -> Tensor:
        """States [B, Q, H] of some rows after the last layer, which computes no others."""
        for layer in self.layer[:-1]:
            hidden, _ = layer(hidden, hidden, scope)
        scope = scope.of_rows(positions_BQ)
        rows_BQH = (
            gather_rows(hidden, positions_BQ) if scope.packed is None else scope.packed.gather(hidden, positions_BQ)
        )
        return cast(Tensor, self.layer[-1](rows_BQH, hidden, scope)[0])


class RealmPooler(nn.Module):
    """Turns the [CLS] state into the summary of the sequence."""

    def __init__(self, config: RealmConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, cls_BH: Tensor) -> Tensor:
        """Pooled state [B, H], in (-1, 1)."""
        return torch.tanh(self.dense(cls_BH))


def attention_scope(
    config: RealmConfig,
    hidden_BLH: Tensor,
    attention_mask: Tensor | None,
    head_mask: Tensor | None = None,
    output_attentions: bool = False,
) -> AttentionScope:
    """The scope of padded states: every row attends to the tokens of its sequence that the mask admits.

    Args:
        config: names the attention implementation, and counts layers and heads.
        hidden_BLH: the states.
        attention_mask: [B, L] or [B, L, L], nonzero where attended to; everything by default.
        head_mask: [A] or [layers, A] factors, 0 for heads that are switched off.
        output_attentions: whether weights are wanted.
    """
    mask: Any
    if config._attn_implementation in OWN_ATTENTION or output_attentions or head_mask is not None:
        mask = additive_mask(attention_mask, hidden_BLH.dtype)
    else:
        mask = create_bidirectional_mask(config=config, inputs_embeds=hidden_BLH, attention_mask=attention_mask)
    head_masks = None
    if head_mask is not None:
        head_masks = head_mask.to(hidden_BLH.dtype).expand(config.num_hidden_layers, -1)[:, None, :, None, None]
    return AttentionScope(mask=mask, head_masks=head_masks, output_attentions=output_attentions)


def additive_mask(attention_mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What is added to attention scores, [B, 1, 1, L] or [B, 1, L, L]: 0 where the mask is set, else the least number.

    Additive and not boolean, because eager attention *adds* its mask: with a boolean one it would be silently wrong.
    """
    if attention_mask is None:
        return None
    present = attention_mask.to(torch.bool)
    present = present[:, None, None, :] if present.dim() == 2 else present[:, None, :, :]
    return torch.zeros(present.shape, dtype=dtype, device=present.device).masked_fill_(~present, torch.finfo(dtype).min)


def gather_rows(hidden_BLH: Tensor, positions_BQ: Tensor) -> Tensor:
    """Rows [B, Q, H] of the states at the given positions."""
    return hidden_BLH.gather(1, positions_BQ.unsqueeze(-1).expand(-1, -1, hidden_BLH.shape[-1]))
