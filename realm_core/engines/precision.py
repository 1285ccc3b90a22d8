"""Which arithmetic a device should use, and how it is named.

The name of the arithmetic is part of an embedding's name, so that embeddings of two kinds are never mixed:
`fp32`, `bf16` or `int8-<12 hex digits>` (the digits name the calibration), each followed by `/float16` where the
embeddings are stored in float16 rather than float32.
"""

from __future__ import annotations

from typing import Literal

Precision = Literal["fp32", "bf16", "int8"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "int8"]
TrainingPrecision = Literal["fp32", "bf16"]
TrainingPrecisionChoice = Literal["auto", "fp32", "bf16"]
StoredAs = Literal["float32", "float16"]

_FLOAT16_SUFFIX = "/float16"


def resolve_precision(choice: TrainingPrecisionChoice, *, on_gpu: bool) -> TrainingPrecision:
    """`auto` is bf16 on GPUs and on CPUs with bf16 units (AVX-512 BF16, AMX), where it doubles the speed; else fp32."""
    if choice != "auto":
        return choice
    return "bf16" if on_gpu or cpu_has_bf16_units() else "fp32"


def cpu_has_bf16_units() -> bool:
    """True when this CPU multiplies bf16 natively; others emulate it, slower than fp32."""
    import torch  # here: processes that only search need no PyTorch, and start seconds sooner without it

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def precision_name(arithmetic: str, stored_as: StoredAs) -> str:
    """The name of embeddings computed in `arithmetic` and stored as float32 or float16."""
    return arithmetic + _FLOAT16_SUFFIX if stored_as == "float16" else arithmetic


def arithmetic_of(name: str) -> str:
    """What they were computed in: `fp32`, `bf16` or `int8-…`."""
    return name.removesuffix(_FLOAT16_SUFFIX)


def stored_as(name: str) -> StoredAs:
    """What they are stored as."""
    return "float16" if name.endswith(_FLOAT16_SUFFIX) else "float32"
