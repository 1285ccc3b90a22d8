"""The engine of an encoder: its weights with its own marker tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from realm_core.engines.precision import TrainingPrecision, arithmetic_of

if TYPE_CHECKING:
    from realm_core.engines.engine import Engine
    from realm_core.engines.torch_engine import TorchEngine
    from realm_core.modeling.checkpoints import LoadedEncoder
    from realm_core.storage.files import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreEngineLoader:
    """Loads the engine that suits the device and the arithmetic; an `EngineLoader`."""

    device: str = "cpu"
    threads: int | None = None
    """Of this process, on a CPU; PyTorch's own choice by default."""

    def load(self, store: Store, encoder_digest: str, precision: str) -> Engine:
        """See `EngineLoader.load`.

        Raises:
            EncoderError, ArtifactMissingError: the encoder cannot be read.
            UsageError: a precision that this device, or this installation, does not have.
        """
        import torch

        from realm_core.storage.encoder_store import get_encoder

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        arithmetic = arithmetic_of(precision)
        if arithmetic.startswith("int8-"):
            from realm_core.engines.quantization import load_int8_engine

            return load_int8_engine(store, encoder_digest, arithmetic, threads=self.threads)
        encoder = get_encoder(store, encoder_digest)
        return engine_of(encoder, device=self.device, precision=_torch_precision(arithmetic), measures_peak=True)


def engine_of(
    encoder: LoadedEncoder,
    *,
    device: str = "cpu",
    precision: TrainingPrecision = "fp32",
    measures_peak: bool = False,
) -> TorchEngine:
    """The PyTorch engine of an encoder, on a device."""
    from realm_core.engines.torch_engine import TorchEngine

    return TorchEngine(
        encoder.embedder,
        device=device,
        precision=precision,
        cls_token_id=encoder.token_id("[CLS]"),
        sep_token_id=encoder.token_id("[SEP]"),
        measures_peak=measures_peak,
        query_embedder=encoder.query_embedder,
    )


def _torch_precision(arithmetic: str) -> TrainingPrecision:
    if arithmetic == "fp32":
        return "fp32"
    if arithmetic == "bf16":
        return "bf16"
    raise ValueError(f"no arithmetic is named {arithmetic!r}")
