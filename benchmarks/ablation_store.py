"""What the ablation has done, so that a rerun goes on: a file per stage or row, whose presence says it is done."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_model, save_model

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


class AblationFolder:
    """Results and weights of one preset."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def result(self, name: str) -> dict[str, Any] | None:
        """What a stage or row came to; None while it is not done."""
        path = self.folder / f"{name}.json"
        return dict(json.loads(path.read_text())) if path.exists() else None

    def write(self, name: str, result: dict[str, Any], model: nn.Module | None = None) -> None:
        """Marks it as done, after its weights are on the disk."""
        if model is not None:
            save_model(model, str(self.folder / f"{name}.safetensors"))
        unfinished = self.folder / f"{name}.json.unfinished"
        unfinished.write_text(json.dumps(result))
        unfinished.rename(self.folder / f"{name}.json")

    def load(self, name: str, model: nn.Module) -> None:
        """Fills the model with the stage's weights."""
        load_model(model, str(self.folder / f"{name}.safetensors"))
