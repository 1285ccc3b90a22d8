"""The embedder's forward pass in plain operations, for runtimes that take in a traced graph.

Shapes: B rows, L tokens, Q query rows, H hidden, D projection.
"""

# mypy: allow-untyped-calls
# torch leaves some methods unannotated.

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from realm_core.modeling.embedder import RealmEmbedder
from realm_core.modeling.layers import RealmLayer, activation_of

HIDDEN = -1e4
"""Added to scores of padding: its exponential is 0 in fp32."""


class ExportedEmbedder(nn.Module):
    """Shares the embedder's weights; batch and length may differ from call to call."""

    def __init__(self, embedder: RealmEmbedder) -> None:
        super().__init__()
        self.embedder = embedder.eval()

    def forward(self, ids_BL: Tensor, first_lengths_B1: Tensor, lengths_B1: Tensor) -> Tensor:
        """Embeddings [B, D].

        Args:
            ids_BL: token ids with markers.
            first_lengths_B1: tokens of type 0, with which each row begins.
            lengths_B1: tokens that are no padding.
        """
        positions_1L = torch.arange(ids_BL.shape[1]).unsqueeze(0)
        hidden_BLH = self.embedder.realm.embeddings(ids_BL, (positions_1L >= first_lengths_B1).long(), positions_1L)
        mask_B11L = ((positions_1L >= lengths_B1).float() * HIDDEN)[:, None, None, :]
        *layers, last = self.embedder.realm.encoder.layer
        for layer in layers:
            hidden_BLH = self._layer(cast(RealmLayer, layer), hidden_BLH, hidden_BLH, mask_B11L)
        cls_B1H = self._layer(cast(RealmLayer, last), hidden_BLH[:, :1], hidden_BLH, mask_B11L)
        return cast(Tensor, self.embedder.cls(self.embedder.realm.pool(cls_B1H[:, 0])))

    def _layer(self, layer: RealmLayer, rows_BQH: Tensor, hidden_BLH: Tensor, mask_B11L: Tensor) -> Tensor:
        own = layer.attention.self
        query, key, value = (
            projected.reshape(projected.shape[0], -1, own.num_heads, projected.shape[2] // own.num_heads).transpose(
                1, 2
            )
            for projected in (own.query(rows_BQH), own.key(hidden_BLH), own.value(hidden_BLH))
        )
        context_BAQd = functional.scaled_dot_product_attention(query, key, value, mask_B11L)
        context_BQH = context_BAQd.transpose(1, 2).reshape(rows_BQH.shape[0], -1, own.query.out_features)
        attended = layer.attention.output.LayerNorm(layer.attention.output.dense(context_BQH) + rows_BQH)
        wide = activation_of(self.embedder.config)(layer.intermediate.dense(attended))
        return cast(Tensor, layer.output.LayerNorm(layer.output.dense(wide) + attended))
