"""Conversions of a tiny published model: its records, and what to call `run_convert` with."""

from __future__ import annotations

from support.published import texts

from pipelines.configs.convert import ConvertConfig
from realm_core.storage.block_store import load_corpus
from realm_core.storage.embedding_store import embedding_digest
from realm_core.storage.encoder_pointer import current_encoder

NUM_RECORDS = 700
ROWS_PER_PART = 128
LONG = " ".join(["The bridge of Redcliff was built in 1850 by Ada Fenn."] * 20)
RECORDS = [*texts(NUM_RECORDS - 3), LONG, "", "Ünïcödé — \u6771\u4eac."]


def convert_config(store, model, **changes):
    return ConvertConfig(**{"store": str(store), "model": str(model), "rows_per_part": ROWS_PER_PART, **changes})


def published_digests(store):
    encoder = current_encoder(store)
    return [embedding_digest(p.digest, encoder.digest, encoder.published_precision) for p in load_corpus(store).parts]
