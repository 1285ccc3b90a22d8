"""This project's engines as the benchmarks load them, and what the device's matrix products reach beside them."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from benchmarks.embed_blocks import load_blocks

if TYPE_CHECKING:
    from benchmarks.embed_blocks import Blocks
    from realm_core.engines.engine import Engine
    from realm_core.modeling.checkpoints import LoadedEncoder

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
INT8_PACKAGES = ("openvino", "nncf")


def why_not(precision: Precision, device: str) -> str | None:
    """Why an engine of this precision cannot be had here; None if it can."""
    if precision != "int8":
        return None
    if device == "cuda":
        return "int8 engines are for CPUs"
    missing = [name for name in INT8_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return f"without the packages {' and '.join(missing)}"
    return None


def load_engine(directory: Path, calibration: Path, device: str, precision: str) -> tuple[Engine, str]:
    """The engine of an encoder's directory and its name; int8 is calibrated on the blocks of a file.

    Raises:
        UsageError: a precision that cannot be had here.
    """
    from realm_core.engines.loading import engine_of
    from realm_core.modeling.checkpoints import load_encoder

    encoder = load_encoder(directory)
    if precision == "int8":
        return _int8_engine(encoder, load_blocks(calibration)), "our engine, int8"
    arithmetic: Literal["fp32", "bf16"] = "bf16" if precision == "bf16" else "fp32"
    return engine_of(encoder, device=device, precision=arithmetic), f"our engine, {precision}"


def _int8_engine(encoder: LoadedEncoder, calibration: Blocks) -> Engine:
    """Quantized as `realm embed --precision int8` does it, by way of a store that is gone when it is loaded."""
    from benchmarks.embed_store import write_corpus
    from realm_core.engines.quantization import load_int8_engine, prepare_int8
    from realm_core.storage.encoder_store import put_encoder
    from realm_core.storage.files import Store

    with tempfile.TemporaryDirectory(prefix="realm-int8-") as folder:
        store = Store(folder)
        digest = put_encoder(store, encoder)
        arithmetic = prepare_int8(store, digest, write_corpus(store, calibration, rows_per_part=64))
        return load_int8_engine(store, digest, arithmetic, threads=torch.get_num_threads())


def measure_peak_of(device: str, precision: str) -> float:
    """Operations per second of large matrix products in this arithmetic, with the threads that PyTorch has now."""
    from realm_core.engines.peaks import measure_int8_peak, measure_peak

    if precision == "int8":
        return measure_int8_peak()
    return measure_peak(device, torch.bfloat16 if precision == "bf16" else torch.float32)
