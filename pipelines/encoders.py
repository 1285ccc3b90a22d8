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


def take_in_encoder(store: Store, encoder: str, corpus: CorpusManifest) -> EncoderVersion:
    """Puts the encoder of a directory or hub id into the store and makes it the newest.

    Raises:
        EncoderError: it cannot be loaded, or has another vocabulary than the corpus.
    """
    loaded = load_encoder(encoder)
    require_same_tokenizer(tokenizer_digest(loaded.tokenizer), corpus.tokenizer_digest)
    version = EncoderVersion(digest=put_encoder(store, loaded), step=0, saved_at_seconds=time.time())
    set_current_encoder(store, version)
    return version


def encoder_to_use(store: Store, encoder: str | None, corpus: CorpusManifest) -> EncoderVersion:
    """The encoder that was named, or the store's newest one."""
    return take_in_encoder(store, encoder, corpus) if encoder else current_encoder(store)
