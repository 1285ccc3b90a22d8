"""Weights and inputs as functions of a name and a shape, frozen for ever, so that none of them is stored.

NumPy keeps the streams of the legacy `RandomState` unchanged; that is why it is used here.
"""

from __future__ import annotations

import math
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

_LAYER_NORMS = ("LayerNorm.weight", "layer_normalization.weight")


def uniform(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Values in [0, 1) that depend on the name and on nothing else."""
    return np.random.RandomState(crc32(name.encode())).random_sample(shape)


def real(name: str, shape: tuple[int, ...], std: float = 1.0) -> NDArray[np.float32]:
    """Uniform values with mean 0 and this standard deviation."""
    return ((uniform(name, shape) - 0.5) * (std * math.sqrt(12))).astype(np.float32)


def integers(name: str, shape: tuple[int, ...], start: int, stop: int) -> NDArray[np.int64]:
    """Integers in [start, stop)."""
    return start + np.floor(uniform(name, shape) * (stop - start)).astype(np.int64)


def canonical_name(name: str) -> str:
    """The vocabulary's bias has two published names and is one parameter."""
    return name.replace("predictions.decoder.bias", "predictions.bias")


def weight(name: str, shape: tuple[int, ...], std: float) -> NDArray[np.float32]:
    """The values of a parameter: near 1 for the scale of a LayerNorm, else around 0; no bias is 0."""
    values = real(canonical_name(name), shape, std)
    return values + np.float32(1) if name.endswith(_LAYER_NORMS) else values


def fill(model: nn.Module, std: float) -> None:
    """Gives every parameter its values; tied ones are one parameter, which has the first of its names."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weight(name, tuple(parameter.shape), std)))
