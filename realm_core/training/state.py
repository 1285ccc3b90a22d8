"""Training state on disk, without pickle: a resumed run goes on bit for bit.

    model-<name>.safetensors    parameters and buffers; tied weights once
    optimizer.safetensors       the optimizer's tensors, named <parameter number>.<key>
    state.json                  step, data position, random generators, parameter groups, digests of the other files
                                and of itself

Written last, `state.json` names the rest. Making the whole appear at once (a temporary folder, then a rename) is for
the caller. Wrapped models (DDP, `torch.compile`) are given unwrapped, so that names do not depend on the wrapper.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from realm_core.errors import ArtifactCorruptError, ArtifactMissingError, TrainingError
from realm_core.storage.digests import digest_of, digest_of_file
from realm_core.training.random_state import random_state, restore_random_state

STATE_FILE = "state.json"
OPTIMIZER_FILE = "optimizer.safetensors"
FORMAT = "realm-training-state-2"


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """How far a saved run had come."""

    step: int
    """Finished optimizer updates."""
    data_position: dict[str, int]
    """Whatever names the next example, such as epoch and offset."""


def save_training_state(
    directory: Path,
    *,
    models: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    step: int,
    data_position: dict[str, int],
    rng: np.random.Generator,
) -> None:
    """Writes all that the next step depends on into an existing folder, flushed to the disk.

    The random generators are those of this process: with several ranks each keeps its own `random_state` beside this.
    """
    for name, model in models.items():
        save_model(model, str(directory / _model_file(name)))
    tensors, groups = _optimizer_to_plain(optimizer)
    save_file(tensors, directory / OPTIMIZER_FILE)
    files = [*map(_model_file, models), OPTIMIZER_FILE]
    for file in files:
        _flush_to_disk(directory / file)
    state = {
        "format": FORMAT,
        "step": step,
        "data_position": data_position,
        "files": {file: digest_of_file(directory / file) for file in files},
        "parameter_groups": groups,
        "random": random_state(rng),
    }
    state["digest"] = digest_of(state)
    (directory / STATE_FILE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    _flush_to_disk(directory / STATE_FILE)
    _flush_to_disk(directory)


def load_training_state(
    directory: Path, *, models: dict[str, nn.Module], optimizer: torch.optim.Optimizer, rng: np.random.Generator
) -> TrainingProgress:
    """Restores models, optimizer and random generators in place.

    Everything is checked before anything is changed.

    Raises:
        ArtifactMissingError: A file is not there.
        ArtifactCorruptError: A file's bytes are not those that were written.
        TrainingError: The state is of other models or of another optimizer.
    """
    state = _checked_state(directory, models)
    tensors = load_file(directory / OPTIMIZER_FILE)
    _check_optimizer(directory, tensors, state["parameter_groups"], optimizer)
    _load_models(directory, models)
    optimizer.load_state_dict(_optimizer_from_plain(tensors, state["parameter_groups"]))
    restore_random_state(state["random"], rng)
    return TrainingProgress(step=state["step"], data_position=state["data_position"])


def load_trained_models(directory: Path, models: dict[str, nn.Module]) -> None:
    """Restores the models alone, in place; raises as `load_training_state` does."""
    _checked_state(directory, models)
    _load_models(directory, models)


def _checked_state(directory: Path, models: dict[str, nn.Module]) -> dict[str, Any]:
    state = _read_state(directory)
    _check_files(directory, state["files"])
    _check_names(directory, set(state["files"]), {*map(_model_file, models), OPTIMIZER_FILE})
    for name, model in models.items():
        _check_tensors(directory / _model_file(name), model)
    return state


def _load_models(directory: Path, models: dict[str, nn.Module]) -> None:
    for name, model in models.items():
        load_model(model, directory / _model_file(name))


def _model_file(name: str) -> str:
    return f"model-{name}.safetensors"


def _optimizer_to_plain(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    state = optimizer.state_dict()
    tensors = {f"{number}.{key}": value for number, values in state["state"].items() for key, value in values.items()}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}, state["param_groups"]


def _optimizer_from_plain(tensors: dict[str, Tensor], groups: list[dict[str, Any]]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = tensor
    return {"state": state, "param_groups": [_with_tuples(group) for group in groups]}


def _with_tuples(group: dict[str, Any]) -> dict[str, Any]:
    """JSON has no tuples; AdamW's betas are one."""
    return {key: tuple(value) if key == "betas" else value for key, value in group.items()}


def _read_state(directory: Path) -> dict[str, Any]:
    path = directory / STATE_FILE
    _require_file(path)
    try:
        state = json.loads(path.read_bytes())
        written_as, digest = state["format"], state.pop("digest", None)
    except (ValueError, TypeError, KeyError) as error:
        raise _corrupt(path, f"no training state ({error})") from error
    if written_as != FORMAT:
        raise _corrupt(path, f"format {written_as!r}")
    if digest_of(state) != digest:
        raise _corrupt(path, "values of another digest")
    return dict(state)


def _check_files(directory: Path, digests: dict[str, str]) -> None:
    for name, digest in digests.items():
        path = directory / name
        _require_file(path)
        if digest_of_file(path) != digest:
            raise _corrupt(path, f"{path.stat().st_size} bytes of another digest")


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise ArtifactMissingError(
            where=f"training state {path.parent}",
            found=f"no {path.name}",
            expected="every file of a saved state",
            action="Resume from an earlier checkpoint.",
        )


def _corrupt(path: Path, found: str) -> ArtifactCorruptError:
    return ArtifactCorruptError(
        where=str(path),
        found=found,
        expected=f"the bytes that were saved, in format {FORMAT!r}",
        action="Resume from an earlier checkpoint, and check the disk.",
    )


def _check_names(directory: Path, found: set[str], expected: set[str]) -> None:
    if found != expected:
        raise _mismatch(directory, f"files {sorted(found)}", f"files {sorted(expected)}")


def _check_tensors(path: Path, model: nn.Module) -> None:
    """The same names but for tied ones, shapes and types; loading would cast another type without a word."""
    saved = load_file(path)
    present = model.state_dict()
    storages = {present[name].data_ptr() for name in saved.keys() & present.keys()}
    wrong = [f"{name} in the file only" for name in sorted(saved.keys() - present.keys())]
    for name, tensor in present.items():
        if name in saved and _describe(saved[name]) != _describe(tensor):
            wrong.append(f"{name} as {_describe(saved[name])} instead of {_describe(tensor)}")
        if name not in saved and tensor.data_ptr() not in storages:
            wrong.append(f"no {name}")
    if wrong:
        raise _mismatch(path, "; ".join(wrong), f"the tensors of {type(model).__name__}")


def _check_optimizer(
    directory: Path, tensors: dict[str, Tensor], groups: list[dict[str, Any]], optimizer: torch.optim.Optimizer
) -> None:
    sizes = [len(group["params"]) for group in groups]
    present = [len(group["params"]) for group in optimizer.param_groups]
    if sizes != present:
        raise _mismatch(directory / OPTIMIZER_FILE, f"parameter groups of {sizes}", f"groups of {present}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, tensor in tensors.items():
        parameter = parameters[int(name.split(".", 1)[0])]
        if tensor.dim() and tensor.shape != parameter.shape:
            raise _mismatch(directory / OPTIMIZER_FILE, f"{name} as {_describe(tensor)}", _describe(parameter))


def _mismatch(path: Path, found: str, expected: str) -> TrainingError:
    return TrainingError(
        where=str(path),
        found=found,
        expected=expected,
        action="Resume with the configuration that the run began with, or start a new run in another folder.",
    )


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
