"""The random generators of a training process as plain JSON values, so that a resumed run draws what it would have."""

from __future__ import annotations

import logging
import random
from typing import Any

import numpy as np
import torch

logger = logging.getLogger(__name__)


def random_state(rng: np.random.Generator) -> dict[str, Any]:
    """The states of Python's, torch's (CPU and every visible GPU) and the given NumPy generator.

    NumPy's global generator is left out: nothing here draws from it.
    """
    version, words, next_gauss = random.getstate()
    return {
        "python": [version, list(words), next_gauss],
        "numpy": rng.bit_generator.state,
        "torch": _to_hex(torch.get_rng_state()),
        "cuda": [_to_hex(state) for state in torch.cuda.get_rng_state_all()],
    }


def restore_random_state(state: dict[str, Any], rng: np.random.Generator) -> None:
    """Puts the process's generators and `rng` where `random_state` found them.

    On another number of GPUs theirs go on from their present seeds, and a warning says so.
    """
    version, words, next_gauss = state["python"]
    random.setstate((version, tuple(words), next_gauss))
    rng.bit_generator.state = state["numpy"]
    torch.set_rng_state(_from_hex(state["torch"]))
    num_gpus = torch.cuda.device_count()
    if num_gpus == len(state["cuda"]):
        torch.cuda.set_rng_state_all([_from_hex(text) for text in state["cuda"]])
    else:
        saved = len(state["cuda"])
        logger.warning("Dropout will differ: the state holds %d GPU generators, this process has %d", saved, num_gpus)


def _to_hex(state: torch.Tensor) -> str:
    return bytes(state.tolist()).hex()


def _from_hex(text: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
