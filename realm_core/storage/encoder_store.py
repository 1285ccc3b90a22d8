"""Encoders in the store: the folder that `save_encoder` writes, under the encoder's digest."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from realm_core.modeling.checkpoints import LoadedEncoder
    from realm_core.modeling.embedder import RealmEmbedder
    from realm_core.storage.files import Store


def encoder_path(digest: str) -> str:
    """The folder of an encoder."""
    return f"encoders/{digest}"


def put_encoder(store: Store, embedder: RealmEmbedder, tokenizer: Tokenizer) -> str:
    """Saves an encoder under its digest, once; returns the digest."""
    from realm_core.modeling.checkpoints import encoder_digest, save_encoder

    digest = encoder_digest(embedder)
    if not has_encoder(store, digest):
        with tempfile.TemporaryDirectory(prefix="realm-encoder-") as folder:
            save_encoder(embedder, tokenizer, Path(folder))
            store.put_folder(Path(folder), encoder_path(digest), last="config.json")
    return digest


def has_encoder(store: Store, digest: str) -> bool:
    """True when the encoder is there, whole."""
    return store.exists(f"{encoder_path(digest)}/config.json")


def get_encoder(store: Store, digest: str) -> LoadedEncoder:
    """Loads an encoder of the store. Raises `ArtifactMissingError` when it is not there."""
    from realm_core.modeling.checkpoints import load_encoder

    return load_encoder(str(store.local_folder(encoder_path(digest))))
