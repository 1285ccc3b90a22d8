"""Bringing an encoder into the store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from realm_core.modeling.bert import check_is_bert
from realm_core.modeling.checkpoints import load_encoder, tokenizer_digest
from realm_core.modeling.weights import read_config, resolve_directory
from realm_core.retrieval.query_encoder import require_same_tokenizer
from realm_core.storage.encoder_pointer import EncoderVersion, current_encoder, set_current_encoder
from realm_core.storage.encoder_store import put_encoder

if TYPE_CHECKING:
    from pathlib import Path

    from realm_core.storage.block_store import CorpusManifest
    from realm_core.storage.files import Store


def require_usable_encoder(encoder: str) -> Path:
    """The encoder's local directory; raises `EncoderError` at once for an architecture that later stages refuse."""
    directory = resolve_directory(encoder)
    fields = read_config(directory)
    if fields.get("model_type") != "realm":
        check_is_bert(directory, fields)
    return directory


def store_encoder(store: Store, encoder: str, corpus: CorpusManifest) -> EncoderVersion:
    """Puts the encoder of a directory or hub id into the store; the store's newest stays what it is.

    Raises:
        EncoderError: it cannot be loaded, or has another vocabulary than the corpus.
    """
    loaded = load_encoder(encoder)
    require_same_tokenizer(tokenizer_digest(loaded.tokenizer), corpus.tokenizer_digest)
    return EncoderVersion(digest=put_encoder(store, loaded), step=0, saved_at_seconds=time.time())


def encoder_to_use(store: Store, encoder: str | None, corpus: CorpusManifest) -> EncoderVersion:
    """The encoder that was named, which becomes the store's newest one, or else that one.

    Raises:
        EncoderError: see `store_encoder`.
    """
    if not encoder:
        return current_encoder(store)
    version = store_encoder(store, encoder, corpus)
    set_current_encoder(store, version)
    return version
