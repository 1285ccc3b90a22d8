"""The Transformer of the embedder over packs: no padding, and of the last layer only what [CLS] needs.

Shapes: T tokens of a pack, B rows, H hidden, A attention heads, d width of a head.
"""

# mypy: allow-untyped-calls
# torch leaves some methods unannotated.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from realm_core.engines.linears import Activation, Linear, make_linear
from realm_core.engines.row_attention import OneRowAtATime, RowAttention, RowBounds, VariableLength
from realm_core.modeling.configuration import RealmConfig
from realm_core.modeling.embedder import RealmEmbedder
from realm_core.modeling.encoder import RealmBertModel
from realm_core.modeling.layers import RealmLayer, RealmResidualOutput, RealmSelfAttention, activation_function

CLS_ROWS = 32
"""[CLS] rows that go through the last layer together, dummies included: their matrix products have one shape."""


@dataclass(frozen=True, slots=True)
class PackOnDevice:
    """What the Transformer reads of a pack."""

    ids_T: Tensor
    positions_T: Tensor
    types_T: Tensor
    bounds: RowBounds
    cls_places_B: Tensor
    """Where each row begins, int64."""


class PackedTransformer:
    """The states of [CLS] after the last layer."""

    def __init__(self, realm: RealmBertModel, *, device: torch.device, dtype: torch.dtype, num_tokens: int) -> None:
        """Copies the weights.

        Args:
            realm: embeddings and layers.
            device: where to run.
            dtype: of weights and states; the embeddings are summed and normalized in fp32.
            num_tokens: T, of most packs.
        """
        config = realm.config
        embeddings = realm.embeddings
        self._tables = [
            _copy(table.weight, device, torch.float32)
            for table in (embeddings.word_embeddings, embeddings.token_type_embeddings, embeddings.position_embeddings)
        ]
        self._normalize = _Normalization(embeddings.LayerNorm, device, torch.float32)
        self._dtype = dtype
        self._attention: RowAttention = (
            VariableLength() if device.type == "cuda" and dtype != torch.float32 else OneRowAtATime()
        )
        shape = LayerShape(config, device, dtype, num_tokens)
        *layers, last = realm.encoder.layer
        self._layers = [_Layer(cast(RealmLayer, layer), shape, self._attention) for layer in layers]
        self._last = _LastLayer(cast(RealmLayer, last), shape, self._attention)

    def cls_states(self, pack: PackOnDevice) -> Tensor:
        """[B, H], fp32."""
        hidden_TH = self._embed(pack).to(self._dtype)
        for layer in self._layers:
            hidden_TH = layer(hidden_TH, pack.bounds)
        return self._last(hidden_TH, pack).float()

    def _embed(self, pack: PackOnDevice) -> Tensor:
        words, types, positions = self._tables
        summed_TH = functional.embedding(pack.ids_T, words)
        summed_TH += functional.embedding(pack.types_T, types)
        summed_TH += functional.embedding(pack.positions_T, positions)
        return self._normalize(summed_TH)


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What all affine maps of the layers have in common."""

    config: RealmConfig
    device: torch.device
    dtype: torch.dtype
    num_tokens: int

    def linear(self, *maps: nn.Linear, rows: int | None = None) -> Linear:
        """Affine maps of the same input as one."""
        weight = torch.cat([_copy(part.weight, self.device, self.dtype) for part in maps])
        bias = torch.cat([_copy(part.bias, self.device, self.dtype) for part in maps])
        activation: Activation = self.config.hidden_act
        return make_linear(weight, bias, rows=rows or self.num_tokens, activation=activation)


class Projection:
    """Pooler, projection and normalization, in fp32: states [B, H] of [CLS] to embeddings [B, D]."""

    def __init__(self, embedder: RealmEmbedder, device: torch.device) -> None:
        pooler = embedder.realm.pooler
        if pooler is None:
            raise ValueError("an embedder's encoder has a pooler")
        shape = LayerShape(embedder.config, device, torch.float32, CLS_ROWS)
        self._pool, self._project = shape.linear(pooler.dense), shape.linear(embedder.cls.dense)
        self._normalize = _Normalization(embedder.cls.LayerNorm, device, torch.float32)

    def __call__(self, cls_BH: Tensor) -> Tensor:
        """[B, D]."""
        return in_chunks(lambda chunk: self._normalize(self._project(torch.tanh(self._pool(chunk)))), cls_BH)


class _Normalization:
    def __init__(self, norm: nn.LayerNorm, device: torch.device, dtype: torch.dtype) -> None:
        self._weight, self._bias = _copy(norm.weight, device, dtype), _copy(norm.bias, device, dtype)
        self._epsilon = norm.eps

    def __call__(self, values: Tensor) -> Tensor:
        return functional.layer_norm(values, self._weight.shape, self._weight, self._bias, self._epsilon)


class _AfterAttention:
    """What follows attention in a layer: each token by itself."""

    def __init__(self, layer: RealmLayer, shape: LayerShape, rows: int | None = None) -> None:
        self._project_context, self._normalize_context = self._residual(layer.attention.output, shape, rows)
        self._widen = shape.linear(layer.intermediate.dense, rows=rows)
        self._narrow, self._normalize = self._residual(layer.output, shape, rows)

    def __call__(self, context_TH: Tensor, rows_TH: Tensor) -> Tensor:
        attended_TH = self._normalize_context(self._project_context.plus(context_TH, rows_TH))
        return self._normalize(self._narrow.plus(self._widen.activated(attended_TH), attended_TH))

    @staticmethod
    def _residual(output: RealmResidualOutput, shape: LayerShape, rows: int | None) -> tuple[Linear, _Normalization]:
        return shape.linear(output.dense, rows=rows), _Normalization(output.LayerNorm, shape.device, shape.dtype)


class _FusedAfterAttention:
    """The same on a GPU, compiled: what stands between two matrix products is one pass over memory, not four."""

    def __init__(self, layer: RealmLayer, shape: LayerShape) -> None:
        output, intermediate = layer.attention.output, layer.intermediate.dense
        parts = (output.dense, output.LayerNorm, intermediate, layer.output.dense, layer.output.LayerNorm)
        self._parameters = [
            _copy(parameter, shape.device, shape.dtype) for part in parts for parameter in (part.weight, part.bias)
        ]
        self._activation = activation_function(shape.config.hidden_act)
        self._epsilon = layer.output.LayerNorm.eps

    def __call__(self, context_TH: Tensor, rows_TH: Tensor) -> Tensor:
        finish = _compiled_after_attention()
        finished: Tensor = finish(context_TH, rows_TH, self._parameters, self._activation, self._epsilon)
        return finished


@cache
def _compiled_after_attention() -> Callable[..., Tensor]:
    """Compiled once for all layers and engines of the process, on first use."""
    return torch.compile(after_attention, dynamic=False)


def after_attention(
    context_TH: Tensor,
    rows_TH: Tensor,
    parameters: list[Tensor],
    activation: Callable[[Tensor], Tensor],
    epsilon: float,
) -> Tensor:
    """New states [T, H] of context and residual: `_AfterAttention` as one function of tensors.

    Args:
        context_TH: what attention gave.
        rows_TH: what came into the layer.
        parameters: weight and bias of the output projection and its normalization, of the wide and the narrow map, and
            of the last normalization.
        activation: between the two maps.
        epsilon: of both normalizations.
    """
    out, out_bias, gain_1, shift_1, wide, wide_bias, narrow, narrow_bias, gain_2, shift_2 = parameters
    summed_TH = functional.linear(context_TH, out, out_bias) + rows_TH
    attended_TH = functional.layer_norm(summed_TH, gain_1.shape, gain_1, shift_1, epsilon)
    activated = activation(functional.linear(attended_TH, wide, wide_bias))
    summed_TH = functional.linear(activated, narrow, narrow_bias) + attended_TH
    return functional.layer_norm(summed_TH, gain_2.shape, gain_2, shift_2, epsilon)


class _Layer:
    def __init__(self, layer: RealmLayer, shape: LayerShape, attention: RowAttention) -> None:
        own = _self_attention(layer)
        self._project = shape.linear(own.query, own.key, own.value)
        self._num_heads = shape.config.num_attention_heads
        self._attend = attention
        self._finish = (_FusedAfterAttention if shape.device.type == "cuda" else _AfterAttention)(layer, shape)

    def __call__(self, hidden_TH: Tensor, bounds: RowBounds) -> Tensor:
        query, key, value = self._project(hidden_TH).view(len(hidden_TH), 3, self._num_heads, -1).unbind(1)
        context_TAd = self._attend.all_tokens(query, key, value, bounds)
        return self._finish(context_TAd.reshape(hidden_TH.shape), hidden_TH)


class _LastLayer:
    """Keys and values of all tokens; queries and all the rest of [CLS] alone."""

    def __init__(self, layer: RealmLayer, shape: LayerShape, attention: RowAttention) -> None:
        own = _self_attention(layer)
        self._project_keys = shape.linear(own.key, own.value)
        self._project_query = shape.linear(own.query, rows=CLS_ROWS)
        self._num_heads = shape.config.num_attention_heads
        self._attend = attention
        self._finish = _AfterAttention(layer, shape, rows=CLS_ROWS)

    def __call__(self, hidden_TH: Tensor, pack: PackOnDevice) -> Tensor:
        key, value = self._project_keys(hidden_TH).view(len(hidden_TH), 2, self._num_heads, -1).unbind(1)
        cls_BH = hidden_TH.index_select(0, pack.cls_places_B)
        query_BH = in_chunks(self._project_query, cls_BH)
        query_BAd = query_BH.view(len(query_BH), self._num_heads, -1)
        context_BH = self._attend.first_tokens(query_BAd, key, value, pack.bounds).reshape(query_BH.shape)
        return in_chunks(self._finish, context_BH, cls_BH)


def in_chunks(function: Callable[..., Tensor], *values: Tensor) -> Tensor:
    """The function of values [B, ...], `CLS_ROWS` rows at a time, the last ones with dummies."""
    num_rows = len(values[0])
    filled = (functional.pad(value, (0, 0, 0, -num_rows % CLS_ROWS)).split(CLS_ROWS) for value in values)
    return torch.cat([function(*chunks) for chunks in zip(*filled, strict=True)])[:num_rows]


def _self_attention(layer: RealmLayer) -> RealmSelfAttention:
    return layer.attention.self


def _copy(parameter: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return parameter.detach().to(device, dtype, copy=True).contiguous()
