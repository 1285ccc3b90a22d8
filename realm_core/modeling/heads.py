"""What stands on the encoder: the vocabulary head and the projection of the embedder.

Shapes: `...` any leading axes, H hidden, D projection, V vocabulary.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from realm_core.modeling.configuration import RealmConfig
from realm_core.modeling.layers import activation_of


class RealmPredictionHeadTransform(nn.Module):
    """The layer between encoder and vocabulary."""

    def __init__(self, config: RealmConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = activation_of(config)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, states: Tensor) -> Tensor:
        """States [..., H]."""
        return cast(Tensor, self.LayerNorm(self.activation(self.dense(states))))


class RealmLMPredictionHead(nn.Module):
    """Logits over the vocabulary. `bias` and `decoder.bias` are one parameter under its two published names."""

    def __init__(self, config: RealmConfig) -> None:
        super().__init__()
        self.transform = RealmPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, states: Tensor) -> Tensor:
        """Logits [..., V] of states [..., H]."""
        return cast(Tensor, self.decoder(self.transform(states)))


class RealmOnlyMLMHead(nn.Module):
    """The masked language model of the knowledge-augmented encoder and of the reader."""

    def __init__(self, config: RealmConfig) -> None:
        super().__init__()
        self.predictions = RealmLMPredictionHead(config)

    def forward(self, states: Tensor) -> Tensor:
        """Logits [..., V] of states [..., H]."""
        return cast(Tensor, self.predictions(states))


class RealmScorerProjection(nn.Module):
    """Pooled state to embedding. `predictions` is carried because published checkpoints have it; nothing reads it."""

    def __init__(self, config: RealmConfig) -> None:
        super().__init__()
        self.predictions = RealmLMPredictionHead(config)
        self.dense = nn.Linear(config.hidden_size, config.retriever_proj_size)
        self.LayerNorm = nn.LayerNorm(config.retriever_proj_size, eps=config.layer_norm_eps)

    def forward(self, pooled_BH: Tensor) -> Tensor:
        """Embeddings [B, D] of pooled states [B, H]."""
        return cast(Tensor, self.LayerNorm(self.dense(pooled_BH)))
