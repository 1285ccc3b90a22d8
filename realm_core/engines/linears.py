"""Affine maps, as fast as the device has them, with what follows them in a Transformer layer.

On a CPU weights are laid out once for oneDNN's kernels, which add the bias, activate or add the residual on the way:
what `torch.compile` makes of a frozen model, without needing a C++ compiler where the engine runs. Prepared so, fp32
products take 15 % less time than PyTorch's own on two cores with AVX-512.

Shapes: T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional

from realm_core.modeling.layers import activation_function

Activation = str | Callable[[Tensor], Tensor]

_FUSED_ACTIVATIONS = {
    "gelu": ("gelu", "none"),
    "gelu_new": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
}


class Linear(Protocol):
    """`x W^T + b` for x [T, in]."""

    def __call__(self, values: Tensor) -> Tensor:
        """[T, out]."""

    def activated(self, values: Tensor) -> Tensor:
        """The activation of [T, out]."""

    def plus(self, values: Tensor, residual: Tensor) -> Tensor:
        """[T, out] and a residual of that shape."""


def make_linear(weight: Tensor, bias: Tensor, *, rows: int, activation: Activation) -> Linear:
    """The fastest form for the device and type of the weight.

    Args:
        weight: [out, in].
        bias: [out].
        rows: T, the same in every call.
        activation: of `activated`; a name as in `RealmConfig.hidden_act`, or a function.
    """
    if weight.device.type == "cpu" and _onednn_multiplies(weight.dtype):
        return OnednnLinear(weight, bias, rows=rows, activation=activation)
    return PlainLinear(weight, bias, activation=activation)


def _onednn_multiplies(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


class OnednnLinear:
    """On a CPU."""

    def __init__(self, weight: Tensor, bias: Tensor, *, rows: int, activation: Activation) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        self._bias = bias
        self._fused = _FUSED_ACTIVATIONS.get(activation) if isinstance(activation, str) else None
        self._activation = activation_function(activation)

    def __call__(self, values: Tensor) -> Tensor:
        """See `Linear`."""
        return self._multiply(values, "none", "")

    def activated(self, values: Tensor) -> Tensor:
        """See `Linear`."""
        return self._activation(self(values)) if self._fused is None else self._multiply(values, *self._fused)

    def plus(self, values: Tensor, residual: Tensor) -> Tensor:
        """See `Linear`."""
        add: Any = torch.ops.mkldnn._linear_pointwise.binary
        return cast(Tensor, add(values, residual, self._weight, self._bias, "add"))

    def _multiply(self, values: Tensor, after: str, algorithm: str) -> Tensor:
        multiply: Any = torch.ops.mkldnn._linear_pointwise
        return cast(Tensor, multiply(values, self._weight, self._bias, after, [], algorithm))


class PlainLinear:
    """On a GPU, and on CPUs whose PyTorch lacks oneDNN."""

    def __init__(self, weight: Tensor, bias: Tensor, *, activation: Activation) -> None:
        self._weight, self._bias = weight, bias
        self._activation = activation_function(activation)

    def __call__(self, values: Tensor) -> Tensor:
        """See `Linear`."""
        return functional.linear(values, self._weight, self._bias)

    def activated(self, values: Tensor) -> Tensor:
        """See `Linear`."""
        return self._activation(self(values))

    def plus(self, values: Tensor, residual: Tensor) -> Tensor:
        """See `Linear`."""
        return self(values) + residual
