"""Reads the configuration and the tensors of a model directory or hub model, or says why that cannot be done."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from realm_core.errors import EncoderError

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_SMALL_FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "modules.json"]
_BLOCK_RECORDS = "block_records.npy"
HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")
"""Arguments of `from_pretrained` that say where and how a hub model is had."""
_FILE_NAMES = ("model.safetensors", "pytorch_model.bin")
_ZIP_MAGIC = b"PK\x03\x04"
_ASKED_FOR = re.compile(r"GLOBAL (\S+)")
_UNPICKLER_REASON = re.compile(r"WeightsUnpickler error: (.+)")
_EXPECTED_DIRECTORY = "a directory with config.json, model.safetensors and tokenizer.json or vocab.txt"


def resolve_directory(
    path_or_id: str | Path,
    *,
    with_block_records: bool = False,
    **hub_options: Any,  # noqa: ANN401 - passed on
) -> Path:
    """The directory of a model: the path itself, or the local copy of a hub model, downloaded if it is not cached.

    Args:
        path_or_id: directory or hub id.
        with_block_records: downloads the hub model's `block_records.npy` too, if it has one: some 10 GB.
        hub_options: `HUB_OPTIONS` of `huggingface_hub.snapshot_download`.

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
    return _download(str(path_or_id), [_BLOCK_RECORDS] if with_block_records else [], hub_options)


def _download(hub_id: str, more_files: list[str], options: dict[str, Any]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = [*_SMALL_FILES, "model*.safetensors*", *more_files]
        directory = Path(snapshot_download(hub_id, allow_patterns=patterns, **options))
        if not any(directory.glob("*.safetensors")):
            snapshot_download(hub_id, allow_patterns=["pytorch_model*.bin*"], **options)
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


def weights_digest(directory: Path) -> str:
    """SHA-256 (hex) of the bytes of the weight files: a second or so for each GB.

    Raises:
        EncoderError: there are none.
    """
    digest = hashlib.sha256()
    for path in _files(directory):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name; safetensors (one file or shards) before `pytorch_model.bin`.

    They are mapped from the file and read when they are used. `.bin` files are unpickled with PyTorch's restricted
    loader, which runs no code; those that PyTorch before 1.6 wrote are read at once.

    Raises:
        EncoderError: no weights; a file that is truncated, asks for a function to be called, or holds something else
            than dense tensors by name.
    """
    return {name: tensor for file in _files(directory) for name, tensor in _read_file(file).items()}


def tensor_names(directory: Path) -> list[str]:
    """The names of all tensors of a checkpoint, in the files' order; reads as little as it can.

    Raises:
        EncoderError: as `read_tensors`.
    """
    return [name for file in _files(directory) for name in _names(file)]


def read_tensor(directory: Path, name: str) -> Tensor | None:
    """One tensor of a checkpoint, mapped from its file; None if there is none of that name.

    Raises:
        EncoderError: as `read_tensors`.
    """
    for file in _files(directory):
        if file.suffix != ".safetensors":
            tensors = _read_file(file)
            if name in tensors:
                return tensors[name]
        elif name in _names(file):
            return _read_safetensors(file, [name])[name]
    return None


def _files(directory: Path) -> list[Path]:
    """The files of a checkpoint: one, or the shards of an index."""
    for name in _FILE_NAMES:
        if (directory / name).is_file():
            return [directory / name]
        if (directory / f"{name}.index.json").is_file():
            return _shards(directory / f"{name}.index.json")
    raise _broken(directory, "no weights", "model.safetensors or pytorch_model.bin", "Copy the weights there.")


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(index, f"no index of shards ({error})", "JSON with a weight_map", "Copy it again.") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise _broken(
            index, f"shards that are not there: {', '.join(missing)}", "all shards", "Copy the missing files."
        )
    return [index.parent / name for name in names]


def _names(file: Path) -> list[str]:
    if file.suffix != ".safetensors":
        return list(_read_bin(file))
    try:
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise _unreadable(file, error) from error


def _read_file(file: Path) -> dict[str, Tensor]:
    return _read_safetensors(file) if file.suffix == ".safetensors" else _read_bin(file)


def _read_safetensors(file: Path, names: list[str] | None = None) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in (opened.keys() if names is None else names)}
    except (SafetensorError, OSError) as error:
        raise _unreadable(file, error) from error


def _read_bin(file: Path) -> dict[str, Tensor]:
    with file.open("rb") as opened:
        is_zip = opened.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
    if is_zip:
        _check_is_stored(file)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # the file decides what the unpickler stumbles over
        raise refused_pickle(file, error) from error
    if not isinstance(content, dict):
        raise _no_tensors(file, f"a {type(content).__name__}")
    for name, value in content.items():
        _check_is_dense(file, name, value)
    return {name: tensor.detach() for name, tensor in content.items()}


def _check_is_stored(file: Path) -> None:
    """Refuses an archive that says it unpacks to more than it is: PyTorch's are not compressed."""
    try:
        with zipfile.ZipFile(file) as archive:
            num_bytes = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _unreadable(file, error) from error
    if num_bytes > file.stat().st_size:
        raise _broken(
            file,
            f"a compressed archive of {num_bytes:,} bytes",
            "an archive as torch.save writes it, without compression",
            "Take the weights from a source that you trust.",
        )


def check_bin(directory: Path) -> None:
    """Raises `EncoderError` where a directory's weights are a `pytorch_model.bin` that holds more than tensors."""
    if any(file.suffix == ".bin" for file in _files(directory)):
        tensor_names(directory)


def _check_is_dense(file: Path, name: object, value: object) -> None:
    if not isinstance(name, str):
        raise _no_tensors(file, f"the key {name!r} of the type {type(name).__name__}")
    if type(value) not in (Tensor, torch.nn.Parameter):
        raise _no_tensors(file, f"{name!r} of the type {type(value).__name__}")
    tensor = cast(Tensor, value)
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        kind = "quantized" if tensor.is_quantized else f"{tensor.layout} on {tensor.device}"
        raise _no_tensors(file, f"{name!r}, a tensor that is {kind}")


def _no_tensors(file: Path, found: str) -> EncoderError:
    return _broken(file, found, "dense tensors by name, and nothing else", "Save the model's state_dict alone.")


def refused_pickle(where: Path | str, error: Exception) -> EncoderError:
    """The error for a file that the restricted unpickler refused: names what it asks for, or what is wrong with it."""
    asked_for = _ASKED_FOR.search(str(error))
    if not isinstance(error, pickle.UnpicklingError) or asked_for is None:
        return _unreadable(where, error)
    return _broken(
        where,
        f"it asks for the function or class {asked_for[1]}",
        "dense tensors by name, and nothing else",
        "No code was run. Do not load this file otherwise; take the weights from a source that you trust.",
    )


def _unreadable(where: Path | str, error: Exception) -> EncoderError:
    reason = _UNPICKLER_REASON.search(str(error))
    lines = (reason[1] if reason else str(error)).splitlines()
    first_line = lines[-1:] if lines and "weights_only" in lines[0] else lines[:1]  # never the advice to unpickle it
    size = f"{Path(where).stat().st_size} bytes" if Path(where).is_file() else "a file"
    return _broken(
        where,
        f"{size} that cannot be read as weights ({''.join(first_line) or type(error).__name__})",
        "a whole checkpoint file",
        "Copy or download it again; it may be truncated.",
    )


def _broken(where: Path | str, found: str, expected: str, action: str) -> EncoderError:
    return EncoderError(where=str(where), found=found, expected=expected, action=action)
