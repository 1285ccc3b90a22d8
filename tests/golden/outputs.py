"""Outputs of a model as arrays with names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


def named_arrays(output: Any, prefix: str = "") -> Arrays:
    """The tensors of an output in its order; names are fields or places in a tuple, joined by dots."""
    if isinstance(output, torch.Tensor):
        return {prefix: output.detach().numpy()}
    items: Iterable[tuple[Any, Any]] = output.items() if isinstance(output, Mapping) else enumerate(output)
    found: Arrays = {}
    for name, value in items:
        found |= named_arrays(value, f"{prefix}.{name}" if prefix else str(name))
    return found


def shapes(arrays: Arrays) -> list[str]:
    """Name, type and shape of every array, in order: what a tuple gives is told apart by its order."""
    return [f"{name} {array.dtype} {'x'.join(map(str, array.shape))}" for name, array in arrays.items()]


def thinned(array: NDArray[Any], max_values: int) -> NDArray[Any]:
    """The array itself, or that many evenly spaced values of it, the first and the last among them."""
    if array.size <= max_values:
        return np.ascontiguousarray(array)
    return array.reshape(-1)[np.linspace(0, array.size - 1, max_values).round().astype(np.int64)]
