"""From flags and YAML to a run's configuration: one dataclass per command, flags win over the file."""

from __future__ import annotations

import difflib
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from realm_core.errors import UsageError

Config = TypeVar("Config")


def parse_config(config_class: type[Config], arguments: list[str], *, program: str) -> Config:
    """The configuration of the flags, over that of `--config FILE` where it is given.

    Raises:
        UsageError: the file is not there, is no YAML mapping, or has a key that no field has; names the nearest one.
        SystemExit: 0 after `--help`, 2 after a flag that tyro refuses, which it has explained.
    """
    path, flags = _split_config_flag(arguments)
    from_file = _as_flags(_read_yaml(path), config_class, path) if path else []
    description = (config_class.__doc__ or "") + "\n\nEvery option can also stand in a YAML file given with --config."
    config: Config = tyro.cli(config_class, args=from_file + flags, prog=program, description=description)
    return config


def _split_config_flag(arguments: list[str]) -> tuple[Path | None, list[str]]:
    for i, argument in enumerate(arguments):
        if argument == "--config" and i + 1 < len(arguments):
            return Path(arguments[i + 1]), arguments[:i] + arguments[i + 2 :]
        if argument.startswith("--config="):
            return Path(argument.removeprefix("--config=")), arguments[:i] + arguments[i + 1 :]
        if argument == "--config":
            raise UsageError(
                where="--config", found="no file name", expected="a YAML file", action="Name one, or leave it out."
            )
    return None, arguments


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(
            where=f"--config {path}",
            found=" ".join(str(error).split()),
            expected="a YAML file of options",
            action="Check the path and the file.",
        ) from error
    if not isinstance(value, dict):
        raise UsageError(
            where=f"--config {path}",
            found=f"a {type(value).__name__}",
            expected="a mapping of option to value, such as `store: ./store`",
            action="Correct the file.",
        )
    return value


def _as_flags(values: dict[str, Any], config_class: type[Any], path: Path | None) -> list[str]:
    names = [field.name for field in fields(config_class)]
    flags: list[str] = []
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in names:
            raise _unknown_key(str(key), names, path)
        flags += _flag(name, value)
    return flags


def _flag(name: str, value: Any) -> list[str]:  # noqa: ANN401 - whatever YAML holds
    option = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [option if value else "--no-" + option.removeprefix("--")]
    if isinstance(value, list):
        return [option, *map(str, value)]
    return [option, str(value)]


def _unknown_key(key: str, names: list[str], path: Path | None) -> UsageError:
    nearest = difflib.get_close_matches(key, names, n=1, cutoff=0.0)[0]
    return UsageError(
        where=f"--config {path}",
        found=f"the key {key!r}",
        expected=f"one of {', '.join(names)}",
        action=f"Did you mean {nearest!r}?",
    )
