"""Encoders in the store: the folder that `save_encoder` writes, under the encoder's digest."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from realm_core.errors import ArtifactCorruptError, ArtifactMissingError, EncoderError, StoreError

if TYPE_CHECKING:
    from realm_core.modeling.checkpoints import LoadedEncoder
    from realm_core.storage.files import Store


def encoder_path(digest: str) -> str:
    """The folder of an encoder."""
    return f"encoders/{digest}"


def put_encoder(store: Store, encoder: LoadedEncoder) -> str:
    """Saves an encoder under its digest, unless it is there and whole; returns the digest.

    Raises:
        StoreError: no room for it, here or in the store.
    """
    from realm_core.modeling.checkpoints import save_encoder

    digest = encoder.digest
    if not _is_whole(store, digest):
        with tempfile.TemporaryDirectory(prefix="realm-encoder-") as folder:
            try:
                save_encoder(encoder.embedder, encoder.tokenizer, Path(folder), query_embedder=encoder.query_embedder)
            except (OSError, SafetensorError) as error:
                raise _cannot_save(folder, error) from error
            store.put_folder(Path(folder), encoder_path(digest), last="config.json")
    return digest


def has_encoder(store: Store, digest: str) -> bool:
    """True when the encoder is there, whole."""
    return store.exists(f"{encoder_path(digest)}/config.json")


def get_encoder(store: Store, digest: str) -> LoadedEncoder:
    """Loads an encoder of the store.

    Raises:
        ArtifactMissingError: it is not there.
        ArtifactCorruptError: its weights are not the ones that its name says.
        EncoderError: its files cannot be read.
    """
    from realm_core.modeling.checkpoints import load_encoder

    loaded = load_encoder(str(store.local_folder(encoder_path(digest))))
    found = loaded.digest
    if found != digest:
        raise ArtifactCorruptError(
            where=f"{store.url}/{encoder_path(digest)}",
            found=f"weights with the digest {found[:12]}",
            expected=f"those with {digest[:12]}, as they were written",
            action="Run `realm embed --encoder …` with the checkpoint that it came from, which stores it again.",
        )
    return loaded


def _is_whole(store: Store, digest: str) -> bool:
    try:
        get_encoder(store, digest)
    except (ArtifactMissingError, ArtifactCorruptError, EncoderError):
        return False
    return True


def _cannot_save(folder: str, error: Exception) -> StoreError:
    return StoreError(
        where=f"temporary folder {folder}",
        found=f"a write that failed ({error})",
        expected="room for the encoder's files",
        action="Make room there, or set TMPDIR to another place, and run the command again.",
    )
