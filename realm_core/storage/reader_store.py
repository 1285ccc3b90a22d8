"""Readers in the store: a whole RealmForOpenQA without its block embeddings, under the digest of its weights."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from realm_core.errors import EncoderError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from realm_core.storage.files import Store

POINTER_PATH = "readers/CURRENT"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReaderVersion:
    """A reader of the store, and the encoder that retrieves for it."""

    digest: str
    encoder_digest: str
    """The encoder in `encoders/` whose embedder is the reader's own."""


def reader_path(digest: str) -> str:
    """The folder of a reader."""
    return f"readers/{digest}"


def put_reader(store: Store, directory: Path, tensors: Mapping[str, Tensor]) -> tuple[str, bool]:
    """Saves a reader under its digest, once; returns the digest and whether it was new.

    Args:
        store: where to.
        directory: its config.json and its tokenizer's files are copied.
        tensors: `embedder.*` and `reader.*`; no two share their memory.
    """
    from safetensors.torch import save_file

    from realm_core.modeling.digests import digest_of_weights
    from realm_core.modeling.weights import read_config

    digest = digest_of_weights(read_config(directory), tensors)
    is_new = not has_reader(store, digest)
    if is_new:
        with tempfile.TemporaryDirectory(prefix="realm-reader-") as name:
            folder = Path(name)
            save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
            for file in ("config.json", *TOKENIZER_FILES):
                if (directory / file).is_file():
                    shutil.copyfile(directory / file, folder / file)
            store.put_folder(folder, reader_path(digest), last="config.json")
    return digest, is_new


def has_reader(store: Store, digest: str) -> bool:
    """True when the reader is there, whole."""
    return store.exists(f"{reader_path(digest)}/config.json")


def reader_folder(store: Store, digest: str) -> Path:
    """A local folder with a reader's files. Raises `ArtifactMissingError` when it is not there."""
    return store.local_folder(reader_path(digest))


def set_current_reader(store: Store, version: ReaderVersion) -> None:
    """Makes it the reader that questions are answered with."""
    store.write_json(POINTER_PATH, asdict(version))


def has_current_reader(store: Store) -> bool:
    """True when the store has a reader."""
    return store.exists(POINTER_PATH)


def current_reader(store: Store) -> ReaderVersion:
    """The store's reader. Raises `EncoderError` when it has none."""
    if not has_current_reader(store):
        raise EncoderError(
            where=f"store {store.url}",
            found="no reader",
            expected="one, brought in by `realm convert`",
            action="Run `realm convert --store … --model …` with a model for open QA, such as "
            "google/realm-orqa-nq-openqa.",
        )
    return ReaderVersion(**store.read_json(POINTER_PATH, required=("digest", "encoder_digest")))
