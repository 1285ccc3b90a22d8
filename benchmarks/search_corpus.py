"""What `benchmarks.search` searches: embeddings, queries to tune on, other queries to measure with, and exact hits.

A folder of `.npy` files, which every side maps. Embeddings are float32 with the values that float16 files hold.

Shape letters: `B` queries, `K` hits, `D` projection, `R` rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from benchmarks.clustered import ClusteredEmbeddings
from benchmarks.embed_blocks import read_json_lines
from realm_core.index.flat import exact_top_k
from realm_core.storage.block_store import ROWS_PER_PART, load_corpus
from realm_core.storage.embedded_corpus import load_embedded_corpus
from realm_core.storage.embedding_store import read_embeddings
from realm_core.storage.encoder_pointer import current_encoder

if TYPE_CHECKING:
    from pathlib import Path

    from realm_core.storage.files import Store

Purpose = Literal["tuning", "test"]
NUM_QUERIES: dict[Purpose, int] = {"tuning": 1_024, "test": 4_096}
NUM_TUNING_HITS = 10
"""As many as `realm index` tunes with."""
VECTORS = "embeddings.npy"
QUESTIONS = "squad/questions-valid.jsonl.gz"


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchTask:
    """A corpus in its folder."""

    name: str
    folder: Path
    num_rows: int
    num_test_queries: int


def synthetic_task(folder: Path, num_rows: int) -> SearchTask:
    """Clustered embeddings of 128 dimensions, see `benchmarks.clustered`."""
    source = ClusteredEmbeddings(num_rows=num_rows)
    vectors_RD = _new_vectors(folder, num_rows, source.dimension)
    for start in range(0, num_rows, ROWS_PER_PART):
        stop = min(num_rows, start + ROWS_PER_PART)
        vectors_RD[start:stop] = source.rows(start, stop).astype(np.float16)
    return _finished(
        f"clustered synthetic, {num_rows:,} x {source.dimension}", folder, vectors_RD, source.queries(_num())
    )


def store_task(folder: Path, store: Store, data: Path) -> SearchTask:
    """The store's newest corpus as its newest encoder embedded it; queries are SQuAD's validation questions.

    Raises:
        StoreError: no corpus, no encoder or no complete embeddings of the one by the other.
        SourceError: no questions in `data`.
    """
    corpus, encoder = load_corpus(store), current_encoder(store)
    embedded = load_embedded_corpus(store, corpus.digest, encoder.digest)
    vectors_RD = _new_vectors(folder, corpus.num_blocks, embedded.dimension)
    for digest, part in zip(embedded.embedding_digests, corpus.parts, strict=True):
        rows = slice(part.first_block_id, part.first_block_id + part.num_rows)
        vectors_RD[rows] = read_embeddings(store, digest, part)[1]
    name = f"blocks and questions of the store, {corpus.num_blocks:,} x {embedded.dimension}"
    return _finished(name, folder, vectors_RD, _question_embeddings(store, encoder.digest, data))


def load_vectors(folder: Path) -> np.ndarray:
    """Float32 `[R, D]`, mapped."""
    vectors_RD: np.ndarray = np.load(folder / VECTORS, mmap_mode="r")
    return vectors_RD


def load_queries(folder: Path, purpose: Purpose) -> np.ndarray:
    """Float32 `[B, D]`."""
    queries_BD: np.ndarray = np.load(folder / f"{purpose}-queries.npy")
    return queries_BD


def load_exact_rows(folder: Path, purpose: Purpose) -> np.ndarray:
    """Int64 `[B, K]`: the exact hits of those queries, best first."""
    rows_BK: np.ndarray = np.load(folder / f"{purpose}-rows.npy")
    return rows_BK


def recall_at(num_hits: int, found_BK: np.ndarray, exact_BK: np.ndarray) -> float:
    """Share of the exact top `num_hits` that is in the found top `num_hits`."""
    is_found_BK = (exact_BK[:, :num_hits, None] == found_BK[:, None, :num_hits]).any(axis=2)
    return float(is_found_BK.mean())


def _num() -> int:
    return sum(NUM_QUERIES.values())


def _new_vectors(folder: Path, num_rows: int, dimension: int) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(folder / VECTORS, mode="w+", dtype=np.float32, shape=(num_rows, dimension))


def _finished(name: str, folder: Path, vectors_RD: np.ndarray, queries_BD: np.ndarray) -> SearchTask:
    hits = exact_top_k(vectors_RD, queries_BD, NUM_TUNING_HITS)
    num_tuning = NUM_QUERIES["tuning"]
    own: dict[Purpose, slice] = {"tuning": slice(0, num_tuning), "test": slice(num_tuning, None)}
    for purpose, rows in own.items():
        np.save(folder / f"{purpose}-queries.npy", queries_BD[rows])
        np.save(folder / f"{purpose}-rows.npy", hits.rows_BK[rows])
    return SearchTask(name=name, folder=folder, num_rows=len(vectors_RD), num_test_queries=len(queries_BD) - num_tuning)


def _question_embeddings(store: Store, encoder_digest: str, data: Path) -> np.ndarray:
    from realm_core.engines.loading import engine_of  # here: torch, which no other corpus needs
    from realm_core.retrieval.query_encoder import MAX_QUERY_TOKENS
    from realm_core.storage.encoder_store import get_encoder

    questions = [str(line["question"]) for line in read_json_lines(data, QUESTIONS)]
    drawn = np.random.default_rng(0).permutation(len(questions))[: _num()]
    encoder = get_encoder(store, encoder_digest)
    encodings = encoder.tokenizer.encode_batch([questions[i] for i in drawn], add_special_tokens=False)
    token_ids = [np.asarray(encoding.ids[:MAX_QUERY_TOKENS], dtype=np.uint16) for encoding in encodings]
    return engine_of(encoder).encode_queries(token_ids)
