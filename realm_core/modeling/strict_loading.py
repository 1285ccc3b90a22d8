"""Puts tensors into a model only if all of them are there with the right shapes."""

# mypy: allow-untyped-calls
# transformers and torch leave some methods unannotated.

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from realm_core.errors import EncoderError
from realm_core.modeling.configuration import RealmConfig

Model = TypeVar("Model", bound=PreTrainedModel)


def build(kind: type[Model], config: RealmConfig, tensors: Mapping[str, Tensor], where: str) -> Model:
    """A model of this kind in fp32 and evaluation mode whose every tensor comes from `tensors`; none is invented.

    Of tied tensors one is enough.

    Raises:
        EncoderError: a tensor is missing or of another shape, or the checkpoint has more layers than its configuration.
    """
    with no_init_weights():
        model = kind(config)
    model.tie_weights()
    tensors = _with_tied(model, tensors)
    problems = _problems(model, config, tensors)
    if problems:
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise EncoderError(
            where=where,
            found=shown,
            expected=f"the tensors of a {kind.__name__} with the shapes of config.json",
            action="Use the weights and the config.json of one and the same checkpoint.",
        )
    model.load_state_dict({name: tensors[name] for name in model.state_dict()})
    for module in model.modules():
        # As transformers marks what is loaded: else a model that takes this one in would draw its weights anew.
        module._is_hf_initialized = True  # type: ignore[assignment]
    model.eval()
    return model


def _with_tied(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under all their names."""
    named = dict(tensors)
    for one, other in model.all_tied_weights_keys.items():
        for known, missing in ((one, other), (other, one)):
            if known in named:
                named.setdefault(missing, named[known])
    return named


def _problems(model: PreTrainedModel, config: RealmConfig, tensors: Mapping[str, Tensor]) -> list[str]:
    needed = model.state_dict()
    missing = [f"no tensor {name}" for name in needed if name not in tensors]
    misshaped = [
        f"{name} of shape {list(tensors[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in needed.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    surplus = [
        f"{name} beyond the {config.num_hidden_layers} layers of config.json"
        for name in tensors
        if ".encoder.layer." in name and name not in needed
    ]
    return missing + misshaped + surplus
