"""Where the golden files lie and how they are read and written: the same values always give the same bytes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from golden.outputs import Arrays
from safetensors.numpy import load_file, save_file

FOLDER = Path(__file__).parent / "data"
_NUMBERS = re.compile(r"\[\s+(-?\d+(?:,\s+-?\d+)*)\s+\]")


def write_json(name: str, data: Any) -> None:
    """Sorted keys, one line for each list of integers."""
    text = json.dumps(data, ensure_ascii=False, indent=1, sort_keys=True)
    text = _NUMBERS.sub(lambda found: "[" + re.sub(r"\s+", " ", found[1]) + "]", text)
    (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8", newline="\n")


def read_json(name: str) -> Any:
    """What `write_json` wrote."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def write_arrays(name: str, arrays: Arrays) -> None:
    """A safetensors file, which orders its tensors by itself."""
    (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, FOLDER / f"{name}.safetensors")


def read_arrays(name: str) -> Arrays:
    """What `write_arrays` wrote."""
    return load_file(FOLDER / f"{name}.safetensors")
