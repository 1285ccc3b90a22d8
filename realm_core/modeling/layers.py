"""The modules of the encoder: embeddings, attention, layers, pooler.

Shapes: B sequences, L tokens, Q query rows, H hidden, A attention heads.
"""

# mypy: allow-untyped-calls
# transformers and torch leave some methods unannotated.

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput

from realm_core.modeling.configuration import RealmConfig


class RealmEmbeddings(nn.Module):
    """Word, position and token-type embeddings, summed and normalized."""

    def __init__(self, config: RealmConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [B, L, H] of token ids [B, L], or of word embeddings [B, L, H] in their place."""
        words_BLH = self._words(input_ids, inputs_embeds)
        if position_ids is None:
            position_ids = torch.arange(words_BLH.shape[1], device=words_BLH.device)
        if token_type_ids is None:
            token_type_ids = torch.zeros(words_BLH.shape[:2], dtype=torch.long, device=words_BLH.device)
        sum_BLH = words_BLH + self.token_type_embeddings(token_type_ids) + self.position_embeddings(position_ids)
        return cast(Tensor, self.dropout(self.LayerNorm(sum_BLH)))

    def _words(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass either input_ids or inputs_embeds, and not both")
        return cast(Tensor, inputs_embeds if input_ids is None else self.word_embeddings(input_ids))


class RealmSelfAttention(nn.Module):
    """Multi-head attention; its queries may come from fewer rows than its keys and values."""

    def __init__(self, config: RealmConfig) -> None:
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(
        self, rows_BQH: Tensor, hidden_BLH: Tensor, mask_B11L: Tensor | None, output_attentions: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Context [B, Q, H] and, on request, attention weights [B, A, Q, L] (which SDPA cannot give)."""
        query, key = self._heads(self.query(rows_BQH)), self._heads(self.key(hidden_BLH))
        value = self._heads(self.value(hidden_BLH))
        if output_attentions or self.config._attn_implementation == "eager":
            context_BAQh, weights = self._eager(query, key, value, mask_B11L)
        else:
            dropout = self.dropout.p if self.training else 0.0
            context_BAQh = functional.scaled_dot_product_attention(query, key, value, mask_B11L, dropout)
            weights = None
        return context_BAQh.transpose(1, 2).reshape(rows_BQH.shape), weights

    def _heads(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:2], self.num_heads, -1).transpose(1, 2)

    def _eager(self, query: Tensor, key: Tensor, value: Tensor, mask_B11L: Tensor | None) -> tuple[Tensor, Tensor]:
        scores_BAQL = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if mask_B11L is not None:
            scores_BAQL = scores_BAQL + mask_B11L
        weights_BAQL = scores_BAQL.softmax(-1)
        return self.dropout(weights_BAQL) @ value, weights_BAQL


class RealmResidualOutput(nn.Module):
    """The end of both half-layers: project, drop out, add what came in, normalize."""

    def __init__(self, config: RealmConfig, input_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(input_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, states: Tensor, residual_BQH: Tensor) -> Tensor:
        """Hidden states [B, Q, H]."""
        return cast(Tensor, self.LayerNorm(self.dropout(self.dense(states)) + residual_BQH))


class RealmAttention(nn.Module):
    """Self-attention and its residual output, under the names of the published checkpoints."""

    def __init__(self, config: RealmConfig) -> None:
        super().__init__()
        self.self = RealmSelfAttention(config)
        self.output = RealmResidualOutput(config, config.hidden_size)


class RealmIntermediate(nn.Module):
    """The wide, activated half of the feed-forward network."""

    def __init__(self, config: RealmConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, states: Tensor) -> Tensor:
        """Activations, `intermediate_size` wide."""
        return cast(Tensor, self.activation(self.dense(states)))


class RealmLayer(GradientCheckpointingLayer):
    """One Transformer layer, for all rows or only for those whose output is needed."""

    def __init__(self, config: RealmConfig) -> None:
        super().__init__()
        self.attention = RealmAttention(config)
        self.intermediate = RealmIntermediate(config)
        self.output = RealmResidualOutput(config, config.intermediate_size)

    def forward(
        self, rows_BQH: Tensor, hidden_BLH: Tensor, mask_B11L: Tensor | None, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """New states [B, Q, H] of `rows_BQH`, which attend to all of `hidden_BLH`; and attention weights, if asked."""
        context_BQH, weights = self.attention.self(rows_BQH, hidden_BLH, mask_B11L, output_attentions)
        attended_BQH = self.attention.output(context_BQH, rows_BQH)
        return self.output(self.intermediate(attended_BQH), attended_BQH), weights


class RealmEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: RealmConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([RealmLayer(config) for _ in range(config.num_hidden_layers)])

    def forward(
        self,
        hidden_BLH: Tensor,
        mask_B11L: Tensor | None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> BaseModelOutput:
        """States of all rows after the last layer; on request those of every layer, and attention weights."""
        states, weights = [hidden_BLH], []
        for layer in self.layer:
            hidden_BLH, weights_BALL = layer(hidden_BLH, hidden_BLH, mask_B11L, output_attentions)
            states.append(hidden_BLH)
            weights.append(weights_BALL)
        return BaseModelOutput(
            last_hidden_state=hidden_BLH,
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(weights) if output_attentions else None,
        )

    def states_at(self, hidden_BLH: Tensor, mask_B11L: Tensor | None, positions_BQ: Tensor) -> Tensor:
        """States [B, Q, H] of some rows after the last layer; the last layer computes no others."""
        for layer in self.layer[:-1]:
            hidden_BLH, _ = layer(hidden_BLH, hidden_BLH, mask_B11L)
        rows_BQH = gather_rows(hidden_BLH, positions_BQ)
        return cast(Tensor, self.layer[-1](rows_BQH, hidden_BLH, mask_B11L)[0])


class RealmPooler(nn.Module):
    """Turns the [CLS] state into the summary of the sequence."""

    def __init__(self, config: RealmConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, cls_BH: Tensor) -> Tensor:
        """Pooled state [B, H], in (-1, 1)."""
        return torch.tanh(self.dense(cls_BH))


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
