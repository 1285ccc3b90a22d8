"""Reads the configuration and the tensors of a model directory or hub model, or says why that cannot be done."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from realm_core.errors import EncoderError

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_SMALL_FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "modules.json"]
_EXPECTED_DIRECTORY = "a directory with config.json, model.safetensors and tokenizer.json or vocab.txt"


def resolve_directory(path_or_id: str | Path) -> Path:
    """The directory of a model: the path itself, or the local copy of a hub model, downloaded if it is not cached.

    Raises:
        EncoderError: neither a directory nor a hub model that can be had.
    """
    path = Path(path_or_id)
    if path.is_dir():
        return path
    if path.exists() or not _HUB_ID.fullmatch(str(path_or_id)):
        found = "a file" if path.exists() else "no such directory"
        raise EncoderError(
            where=str(path_or_id), found=found, expected=_EXPECTED_DIRECTORY, action="Pass the path of that directory."
        )
    return _download(str(path_or_id))


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        directory = Path(snapshot_download(hub_id, allow_patterns=[*_SMALL_FILES, "model*.safetensors*"]))
        if not any(directory.glob("*.safetensors")):
            snapshot_download(hub_id, allow_patterns=["pytorch_model*.bin*"])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise EncoderError(
            where=hub_id,
            found=f"neither a local directory nor a hub model that can be had ({type(error).__name__})",
            expected=_EXPECTED_DIRECTORY + ", or a hub id",
            action="Check the spelling and the network, or download the model first and pass its directory.",
        ) from error
    return directory


def read_config(directory: Path) -> dict[str, Any]:
    """The fields of `config.json`.

    Raises:
        EncoderError: it is missing or not a JSON object.
    """
    try:
        fields = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _broken(directory, "no config.json", "one beside the weights", "Copy the model's config.json.") from error
    except ValueError as error:
        raise _broken(
            directory, f"a config.json that is no JSON ({error})", "a JSON object", "Copy it again."
        ) from error
    if not isinstance(fields, dict):
        raise _broken(
            directory, f"a config.json that holds a {type(fields).__name__}", "a JSON object", "Copy it again."
        )
    return cast("dict[str, Any]", fields)


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name; safetensors (one file or shards) before `pytorch_model.bin`.

    Old `.bin` files are unpickled with PyTorch's restricted loader, which runs no code.

    Raises:
        EncoderError: no weights, or a file that is truncated or otherwise unreadable.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (directory / name).is_file():
            return _read_file(directory / name)
        if (directory / f"{name}.index.json").is_file():
            return _read_shards(directory / f"{name}.index.json")
    raise _broken(directory, "no weights", "model.safetensors or pytorch_model.bin", "Copy the weights there.")


def _read_shards(index: Path) -> dict[str, Tensor]:
    shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    missing = [name for name in shards if not (index.parent / name).is_file()]
    if missing:
        raise _broken(
            index, f"shards that are not there: {', '.join(missing)}", "all shards", "Copy the missing files."
        )
    return {name: tensor for shard in shards for name, tensor in _read_file(index.parent / shard).items()}


def _read_file(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return cast("dict[str, Tensor]", torch.load(file, map_location="cpu", weights_only=True))
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _broken(
            file,
            f"{file.stat().st_size} bytes that cannot be read as weights ({reason})",
            "a whole checkpoint file",
            "Copy or download it again; it may be truncated.",
        ) from error


def _broken(where: Path, found: str, expected: str, action: str) -> EncoderError:
    return EncoderError(where=str(where), found=found, expected=expected, action=action)
