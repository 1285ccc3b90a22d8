"""What a device's matrix products reach, to hold an engine's speed against."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from realm_core.engines.linears import make_linear

CPU_SIZE, GPU_SIZE = 2048, 8192
"""Rows, columns and depth of the product."""
REPEATS = 6
"""The best counts: other processes take time from some."""


def measure_peak(device: str | torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the best of a few large matrix products, a multiplication and an addition each.

    On a CPU with the threads that PyTorch has now; about a second. The better of PyTorch's product and the engine's.
    """
    device = torch.device(device)
    size = CPU_SIZE if device.type == "cpu" else GPU_SIZE
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    linear = make_linear(right, torch.zeros(size, dtype=dtype, device=device), rows=size, activation="gelu")
    with torch.inference_mode():
        seconds = min(_best_seconds(lambda: left @ right, device), _best_seconds(lambda: linear(left), device))
    return float(2 * size**3 / seconds)


def measure_int8_peak() -> float:
    """The same for int8 on a CPU, in integer operations, by oneDNN; 0 where PyTorch lacks it."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_pointwise")):  # type: ignore[no-untyped-call]
        return 0.0
    size, onednn = CPU_SIZE, torch.ops.onednn
    weight = onednn.qlinear_prepack(torch.randint(-127, 128, (size, size), dtype=torch.int8), [size, size])
    values = torch.randint(0, 256, (size, size), dtype=torch.uint8)
    scales, zeros = torch.ones(size), torch.zeros(size, dtype=torch.int64)
    settings: Any = (values, 0.1, 128, weight, scales, zeros, None, 0.1, 128, torch.uint8, "none", [], "")
    seconds = _best_seconds(lambda: onednn.qlinear_pointwise(*settings), torch.device("cpu"))
    return float(2 * size**3 / seconds)


def _best_seconds(multiply: Callable[[], object], device: torch.device) -> float:
    multiply()
    return min(_seconds(multiply, device) for _ in range(REPEATS))


def _seconds(multiply: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    multiply()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
