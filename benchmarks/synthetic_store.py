"""A store of synthetic embeddings in the project's own files: corpus manifest, Parquet parts, snapshots.

There are no block records: what indexes, serves and searches needs none. Embeddings are float16, as `realm embed`
writes them.

Shape letters: `B` queries, `D` projection, `R` rows.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from cluster.indexing import EncodedCorpus, IndexResult, index_corpus
from cluster.refresh import NUM_GATE_QUERIES
from realm_core.index.specs import IndexSpec
from realm_core.storage.block_store import ROWS_PER_PART, CorpusManifest, PartEntry, save_corpus
from realm_core.storage.digests import digest_of, digest_of_uids
from realm_core.storage.embedding_store import EmbeddingSpec, embedding_path, write_embeddings

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.clustered import ClusteredEmbeddings
    from pipelines.display import Display
    from realm_core.storage.files import Store

PRECISION = "bf16/float16"
"""Stored as float16."""


def make_corpus(store: Store, num_rows: int) -> CorpusManifest:
    """Writes and returns the manifest of a corpus of that many rows in parts of the usual size."""
    starts = range(0, num_rows, ROWS_PER_PART)
    parts = tuple(
        PartEntry(
            digest=digest_of("synthetic part", start, min(ROWS_PER_PART, num_rows - start)),
            num_rows=min(ROWS_PER_PART, num_rows - start),
            num_tokens=0,
            first_block_id=start,
        )
        for start in starts
    )
    corpus = CorpusManifest(
        parts=parts,
        tokenizer_digest="synthetic",
        max_block_tokens=288,
        uid_digest=digest_of_uids(uids(0, num_rows)),
        source="synthetic",
        counts={},
    )
    save_corpus(store, corpus)
    return corpus


def make_embeddings(
    store: Store,
    corpus: CorpusManifest,
    embeddings: ClusteredEmbeddings,
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[str, tuple[str, ...]]:
    """Writes the parts that are not there; returns the digests of the encoder that they stand for, and of each part."""
    encoder_digest = digest_of("synthetic encoder", embeddings.seed, embeddings.num_clusters, embeddings.noise)
    spec = EmbeddingSpec(encoder_digest=encoder_digest, precision=PRECISION)
    digests = []
    for part in corpus.parts:
        digest = spec.digest(part.digest)
        start, stop = part.first_block_id, part.first_block_id + part.num_rows
        if not store.exists(embedding_path(digest)):
            write_embeddings(store, spec, part, uids(start, stop), embeddings.rows(start, stop))
        digests.append(digest)
        progress(stop)
    return encoder_digest, tuple(digests)


def uids(start: int, stop: int) -> np.ndarray:
    """One per row (V20): its number in 20 bytes, of which the last is no zero."""
    values = np.full((stop - start, 20), 255, dtype=np.uint8)
    values[:, :8] = np.arange(start, stop, dtype=">u8").view(np.uint8).reshape(-1, 8)
    return values.view("V20").reshape(-1)


def make_snapshot(
    store: Store,
    corpus: CorpusManifest,
    embeddings: ClusteredEmbeddings,
    *,
    step: int,
    num_shards: int,
    display: Display,
    target_recall: float = 0.95,
) -> IndexResult:
    """Embeddings, index and gate of one stand-in encoder, not yet published; what is there is reused."""
    bar = display.task("embed", total=corpus.num_blocks, unit="rows")
    encoder_digest, digests = make_embeddings(store, corpus, embeddings, progress=bar.update)
    bar = display.task("index", total=num_shards, unit="shards")
    encoded = EncodedCorpus(
        corpus=corpus,
        encoder_digest=encoder_digest,
        encoder_step=step,
        encoder_saved_at_seconds=time.time(),
        precision=PRECISION,
        embedding_digests=digests,
    )
    return index_corpus(
        store,
        encoded,
        gate_queries_BD=embeddings.queries(NUM_GATE_QUERIES),
        num_shards=num_shards,
        spec=IndexSpec(),
        target_recall=target_recall,
        progress=bar.update,
    )
