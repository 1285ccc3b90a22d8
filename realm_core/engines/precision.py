"""Which arithmetic a device should use."""

from __future__ import annotations

from typing import Literal

Precision = Literal["fp32", "bf16"]
PrecisionChoice = Literal["auto", "fp32", "bf16"]


def resolve_precision(choice: PrecisionChoice, *, on_gpu: bool) -> Precision:
    """`auto` is bf16 on a GPU and on a CPU with bf16 units (AVX-512 BF16, AMX), where it doubles the speed; else fp32.

    The precision is part of an embedding's name: artifacts of two precisions are never mixed.
    """
    if choice != "auto":
        return choice
    return "bf16" if on_gpu or cpu_has_bf16_units() else "fp32"


def cpu_has_bf16_units() -> bool:
    """True when this CPU multiplies bf16 natively; others emulate it, slower than fp32."""
    import torch  # here: processes that only search need no PyTorch, and start seconds sooner without it

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
