"""Writes the golden files with transformers 4.40.2, the last release with REALM.

    make oracle    # .venv-oracle from tests/golden/requirements.txt
    make golden    # PYTHONPATH=tests .venv-oracle/bin/python -m golden.generate

Two runs on one machine give identical files.
"""

from __future__ import annotations

import inspect
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from golden.configurations import CONFIGURATIONS, MAX_STORED_VALUES, VOCABULARY
from golden.files import FOLDER, write_arrays, write_json
from golden.models import CLASSES, LOSSES, gradients, make_cases, make_config, make_model, run, signature
from golden.outputs import named_arrays, shapes, thinned
from golden.retrievals import overlapping_answers, retrievals
from golden.tokenizations import bare_special_tokens_masks, tokenizations
from safetensors.numpy import load_file

EXPECTED_VERSION = "4.40.2"
TOKENIZERS = {"slow": "RealmTokenizer", "fast": "RealmTokenizerFast"}


def write_outputs(name: str) -> None:
    """The outputs of every class in every case, and their names and shapes."""
    found: dict[str, Any] = {}
    for kind in CLASSES:
        cases = make_cases(kind, name, transformers)
        if not cases:
            continue
        model = make_model(transformers, kind, name)
        outputs = {case_name: run(model, case) for case_name, case in cases.items()}
        found[kind] = {case_name: shapes(arrays) for case_name, arrays in outputs.items()}
        stored = {
            f"{case_name}/{key}": thinned(array, MAX_STORED_VALUES[name])
            for case_name, arrays in outputs.items()
            for key, array in arrays.items()
        }
        write_arrays(f"{name}/{kind}", stored)
    write_json(f"{name}/outputs", found)


def write_gradients(name: str) -> None:
    """Each loss with the gradients of the parameters that it trains."""
    arrays, names = {}, {}
    for loss in LOSSES:
        value, found = gradients(transformers, loss, name)
        arrays |= {f"{loss}/loss": np.float32(value).reshape(1), f"{loss}/gradients": np.stack(list(found.values()))}
        names[loss] = list(found)
    write_arrays(f"{name}/gradients", arrays)
    write_json(f"{name}/gradients", names)


def write_tokenizations() -> None:
    """Both tokenizers and the retriever with each."""
    for name, kind in TOKENIZERS.items():
        write_json(f"tokenizer_{name}", tokenizations(getattr(transformers, kind)))
        write_json(f"retriever_{name}", retrievals(transformers, kind))
    masks = bare_special_tokens_masks(transformers.RealmTokenizer(str(VOCABULARY)))
    write_json("special_tokens_masks", masks)
    write_json("overlapping_answers", overlapping_answers(transformers))


def write_published() -> None:
    """What a checkpoint of transformers 4.40.2 looks like: configuration, tensors, tokenizer files."""
    fields = list(inspect.signature(transformers.RealmConfig.__init__).parameters)[1:-1]
    config = transformers.RealmConfig()
    write_json("configuration", {"defaults": config.to_dict(), "fields": fields, "text": config.to_json_string()})
    write_json("signatures", {kind: signature(transformers, kind) for kind in CLASSES})
    write_json("checkpoints", {kind: _checkpoint(make_model(transformers, kind, "tiny")) for kind in CLASSES})
    write_json("tokenizer_files", {name: _tokenizer_files(kind) for name, kind in TOKENIZERS.items()})


def _checkpoint(model: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, safe_serialization=False)
        tensors = torch.load(Path(folder) / "pytorch_model.bin", weights_only=True)
        return {
            "config.json": (Path(folder) / "config.json").read_text(encoding="utf-8"),
            "pytorch_model.bin": shapes(named_arrays(tensors)),
            "model.safetensors": _safetensors(model, folder),
        }


def _safetensors(model: Any, folder: str) -> list[str] | None:
    """None where transformers 4.40.2 refuses: one tensor has two names there and the class does not say so."""
    try:
        model.save_pretrained(folder, safe_serialization=True)
    except RuntimeError:
        return None
    return shapes(load_file(Path(folder) / "model.safetensors"))


def _tokenizer_files(kind: str) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        getattr(transformers, kind)(str(VOCABULARY)).save_pretrained(folder)
        make_config(transformers, "tiny").save_pretrained(folder)
        return {file.name: file.read_text(encoding="utf-8") for file in Path(folder).glob("*.json")}


def main() -> None:
    """Writes everything anew."""
    if transformers.__version__ != EXPECTED_VERSION:
        sys.exit(
            f"found transformers {transformers.__version__}, expected {EXPECTED_VERSION}: run `make golden`, "
            "which makes the environment it needs"
        )
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    for name in CONFIGURATIONS:
        print(f"{name}: outputs and gradients", flush=True)
        write_outputs(name)
        write_gradients(name)
    print("tokenizers, retriever and checkpoints")
    write_tokenizations()
    write_published()


if __name__ == "__main__":
    main()
