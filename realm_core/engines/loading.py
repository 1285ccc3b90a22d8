"""The engine of an encoder: its weights with its own marker tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realm_core.engines.precision import Precision
from realm_core.engines.torch_engine import TorchEngine

if TYPE_CHECKING:
    from realm_core.modeling.checkpoints import LoadedEncoder


def engine_of(encoder: LoadedEncoder, *, device: str = "cpu", precision: Precision = "fp32") -> TorchEngine:
    """The engine of an encoder, on a device."""
    return TorchEngine(
        encoder.embedder,
        device=device,
        precision=precision,
        cls_token_id=encoder.token_id("[CLS]"),
        sep_token_id=encoder.token_id("[SEP]"),
    )
