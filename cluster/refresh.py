"""One refresh: embed the corpus with a newer encoder, index, gate, publish, swap."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.indexing import EncodedCorpus, IndexResult, index_corpus
from realm_core.storage.block_store import BlockRecords, load_corpus
from realm_core.storage.snapshots import publish

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.embedding import EmbeddingPool, EmbedResult
    from cluster.embedding_progress import EmbedProgress
    from realm_core.index.specs import IndexSpec
    from realm_core.storage.block_store import CorpusManifest
    from realm_core.storage.encoder_pointer import EncoderVersion
    from realm_core.storage.files import Store

NUM_GATE_QUERIES = 512
"""Their recall@5 has a standard error of half a point at 0.95."""
MAX_GATE_QUERY_TOKENS = 62


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexPlan:
    """How a corpus is indexed."""

    num_shards: int
    spec: IndexSpec
    target_recall: float
    """Of exact search's top 5; the cheapest way of searching that finds so much is chosen."""


@dataclass(kw_only=True, slots=True)
class RefreshRecord:
    """What became of one refresh; `seconds` by stage."""

    step: int
    snapshot_id: str = ""
    status: str = "running"
    """running, live, or failed."""
    error: str = ""
    started_at_seconds: float = 0.0
    live_at_seconds: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    recall_at: dict[str, float] = field(default_factory=dict)
    skipped_steps: list[int] = field(default_factory=list)
    """Checkpoints that this refresh passed over, because it was the newest when its turn came."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class StageProgress:
    """Where a running refresh is."""

    stage: str
    done: int
    total: int


def gate_queries(records: BlockRecords, *, seed: int = 0) -> list[list[int]]:
    """Token ids of sentences drawn from the corpus: the queries that a snapshot's recall is measured with."""
    rng = np.random.default_rng(seed)
    block_ids = rng.choice(len(records), size=min(NUM_GATE_QUERIES, len(records)), replace=False)
    rows = records.take(np.sort(block_ids).tolist(), ("body_token_ids", "sentence_starts"))
    return [_first_sentence(row["body_token_ids"], row["sentence_starts"])[:MAX_GATE_QUERY_TOKENS] for row in rows]


def build_snapshot(
    store: Store,
    pool: EmbeddingPool,
    corpus: CorpusManifest,
    encoder: EncoderVersion,
    config: IndexPlan,
    *,
    progress: Callable[[StageProgress], None] = lambda _: None,
) -> tuple[EmbedResult, IndexResult]:
    """Embeds and indexes; what passed the gate is not published yet.

    Raises:
        GateError: names the check that failed.
        RealmError: what embedding or indexing raised.
    """
    total = corpus.num_blocks

    def watch(now: EmbedProgress) -> None:
        progress(StageProgress(stage="embed", done=now.rows_done, total=total))

    embedded = pool.embed(corpus.parts, encoder.digest, progress=watch)
    queries_BD = pool.encode_queries(gate_queries(BlockRecords(store, corpus)), encoder.digest)
    encoded = EncodedCorpus(
        corpus=corpus,
        encoder_digest=encoder.digest,
        encoder_step=encoder.step,
        encoder_saved_at_seconds=encoder.saved_at_seconds,
        precision=pool.precision,
        embedding_digests=tuple(part.embedding_digest for part in embedded.parts),
    )
    indexed = index_corpus(
        store,
        encoded,
        gate_queries_BD=queries_BD,
        num_shards=config.num_shards,
        spec=config.spec,
        target_recall=config.target_recall,
        progress=lambda n: progress(StageProgress(stage="index", done=n, total=config.num_shards)),
    )
    return embedded, indexed


def refresh(
    store: Store,
    pool: EmbeddingPool,
    corpus_digest: str,
    encoder: EncoderVersion,
    config: IndexPlan,
    *,
    swap: Callable[[str], object],
    record: RefreshRecord,
    progress: Callable[[StageProgress], None],
) -> None:
    """Takes an encoder from checkpoint to live, and fills `record`; raises what any stage raised."""
    corpus = load_corpus(store, corpus_digest)
    embedded, indexed = build_snapshot(store, pool, corpus, encoder, config, progress=progress)
    clock = time.monotonic()
    progress(StageProgress(stage="swap", done=0, total=1))
    record.snapshot_id = publish(store, indexed.manifest)
    published = time.monotonic()
    swap(record.snapshot_id)
    record.live_at_seconds = time.time()
    record.seconds = {
        "embed": embedded.seconds,
        "index": indexed.seconds,
        "publish": published - clock,
        "swap": time.monotonic() - published,
    }
    record.counts = embed_counts(embedded) | {"shards": len(indexed.manifest.shards), "index_bytes": indexed.num_bytes}
    record.recall_at = dict(indexed.recall_at)


def embed_counts(embedded: EmbedResult) -> dict[str, int]:
    """Counts of an embedding run: parts made and reused add up to parts; those that were damaged are among the made."""
    return {
        "parts": len(embedded.parts),
        "parts_made": embedded.num_made,
        "parts_reused": embedded.num_reused,
        "parts_damaged": embedded.num_mended,
        "retries": embedded.num_retries,
        "rows": embedded.num_rows,
        "rows_made": embedded.work.num_rows,
        "rows_reused": embedded.num_rows - embedded.work.num_rows,
    }


def _first_sentence(body_token_ids: list[int], sentence_starts: list[int]) -> list[int]:
    stop = sentence_starts[1] if len(sentence_starts) > 1 else len(body_token_ids)
    return body_token_ids[:stop]
