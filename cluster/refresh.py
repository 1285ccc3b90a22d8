"""One refresh: embed the corpus with a newer encoder, index, gate, publish, swap.

The parts of one index shard after the other are embedded, and a shard is built and measured while the next one's parts
are embedded. What is left after the last part: the last shard, the choice of how to search, the gate, publishing, and
the swap.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cluster.indexing import EncodedCorpus, SnapshotBuild
from cluster.refresh_record import RefreshRecord, StageProgress
from cluster.retrieval.shard_processes import LOAD_TIMEOUT_SECONDS
from realm_core.errors import GateError, RealmError
from realm_core.index.searcher import require_searchable
from realm_core.storage.embedding_store import EmbeddingSpec
from realm_core.storage.publishing import rollback
from realm_core.storage.snapshots import live_snapshot_id, publish

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.embedding import EmbeddingPool, EmbedResult
    from cluster.embedding_progress import EmbedProgress
    from cluster.indexing import IndexResult
    from cluster.retrieval_service import RetrievalClient, SwapResult
    from realm_core.index.specs import IndexSpec
    from realm_core.storage.block_store import BlockRecords, CorpusManifest
    from realm_core.storage.encoder_pointer import EncoderVersion
    from realm_core.storage.files import Store

NUM_GATE_QUERIES = 512
"""Their recall@5 has a standard error of half a point at 0.95."""
MAX_GATE_QUERY_TOKENS = 62
PREPARE_SWAP_SECONDS = 20.0
"""So long before the last part is embedded, the processes of the next snapshot's shards are started."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexPlan:
    """How a corpus is indexed."""

    num_shards: int
    spec: IndexSpec
    target_recall: float
    """Of exact search's top 5; the cheapest way of searching that finds so much is chosen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RefreshTask:
    """All that refreshes of one corpus share."""

    store: Store
    corpus: CorpusManifest
    pool: EmbeddingPool
    index: IndexPlan
    gate_queries: list[list[int]]
    """Token ids, see `gate_queries`."""


def gate_queries(records: BlockRecords, *, seed: int = 0) -> list[list[int]]:
    """Token ids of sentences drawn from the corpus: the queries that a snapshot's recall is measured with."""
    rng = np.random.default_rng(seed)
    block_ids = rng.choice(len(records), size=min(NUM_GATE_QUERIES, len(records)), replace=False)
    rows = records.take(np.sort(block_ids).tolist(), ("body_token_ids", "sentence_starts"))
    return [_first_sentence(row["body_token_ids"], row["sentence_starts"])[:MAX_GATE_QUERY_TOKENS] for row in rows]


def refresh(
    task: RefreshTask,
    encoder: EncoderVersion,
    service: RetrievalClient,
    *,
    record: RefreshRecord,
    progress: Callable[[StageProgress], None],
) -> np.ndarray:
    """Takes an encoder from checkpoint to live, and fills `record`.

    What is in the store already, of an attempt that was cut off, is not made again.

    Returns:
        The gate's queries [B, D], as that encoder embeds them.

    Raises:
        GateError: names the check that failed; nothing was published.
        RealmError: what any stage raised; where the swap failed, the store's live snapshot is again what it was.
    """
    live = service.live_snapshot(deadline_seconds=LOAD_TIMEOUT_SECONDS)
    queries_BD = _encode_gate_queries(task, encoder, live.dimension)
    embedded, indexed = _build(task, encoder, queries_BD, service, record, progress)
    progress(StageProgress(stage="publish", done=0, total=1))
    started = time.monotonic()
    record.snapshot_id = publish(task.store, indexed.manifest)
    published_seconds = time.monotonic() - started
    progress(StageProgress(stage="swap", done=0, total=1))
    called_at_seconds = time.time()
    swapped = _swap(task.store, service, record.snapshot_id)
    record.live_at_seconds = called_at_seconds + swapped.seconds
    at_last = {"publish": published_seconds, "swap": swapped.seconds}
    record.seconds |= at_last
    record.seconds_after_embedding |= at_last
    record.counts = embed_counts(embedded) | {
        "shards": len(indexed.manifest.shards),
        "shards_reused": indexed.num_reused_shards,
        "index_bytes": indexed.num_bytes,
    }
    record.recall_at = dict(indexed.recall_at)
    return queries_BD


def _encode_gate_queries(task: RefreshTask, encoder: EncoderVersion, live_dimension: int) -> np.ndarray:
    """At once, before anything is embedded for nothing: a checkpoint that cannot be used is seen here."""
    queries_BD = task.pool.encode_queries(task.gate_queries, encoder.digest)
    where = f"encoder {encoder.digest[:12]} of step {encoder.step}, embedding {len(queries_BD)} queries"
    require_searchable(queries_BD, where=where)
    if queries_BD.shape[1] != live_dimension:
        raise GateError(
            where=where,
            found=f"{queries_BD.shape[1]} dimensions",
            expected=f"{live_dimension}, as the live snapshot has",
            action="The live snapshot goes on. Train from its encoder, or index the other one by `realm embed` and "
            "`realm index`.",
        )
    return queries_BD


def _build(
    task: RefreshTask,
    encoder: EncoderVersion,
    queries_BD: np.ndarray,
    service: RetrievalClient,
    record: RefreshRecord,
    progress: Callable[[StageProgress], None],
) -> tuple[EmbedResult, IndexResult]:
    """Embeds, and indexes meanwhile; what passed the gate is not published yet."""
    parts, num_shards = task.corpus.parts, task.index.num_shards
    spec = EmbeddingSpec(encoder_digest=encoder.digest, precision=task.pool.precision)
    encoded = EncodedCorpus(
        corpus=task.corpus,
        encoder_digest=encoder.digest,
        encoder_step=encoder.step,
        encoder_saved_at_seconds=encoder.saved_at_seconds,
        precision=spec.precision,
        embedding_digests=tuple(spec.digest(part.digest) for part in parts),
    )
    snapshot = SnapshotBuild(
        task.store,
        encoded,
        gate_queries_BD=queries_BD,
        num_shards=num_shards,
        spec=task.index.spec,
        target_recall=task.index.target_recall,
    )
    builds = snapshot.builds
    is_swap_prepared = False

    def watch(now: EmbedProgress) -> None:
        nonlocal is_swap_prepared
        progress(StageProgress(stage="embed", done=now.rows_done, total=task.corpus.num_blocks))
        rows_left = task.corpus.num_blocks - now.rows_done
        if not is_swap_prepared and rows_left <= now.rows_per_second * PREPARE_SWAP_SECONDS:
            is_swap_prepared = True
            service.prepare_swap(bytes_left_free=builds.num_bytes_to_come)

    def watch_shards(num_done: int) -> None:
        progress(StageProgress(stage="index", done=num_done, total=len(builds)))
        if num_done == len(builds):
            progress(StageProgress(stage="gate", done=0, total=1))

    try:
        embedded = task.pool.embed(
            parts,
            encoder.digest,
            progress=watch,
            groups=builds.shard_of_part,
            on_part=lambda index: builds.add_parts([index]),
        )
        embed_seconds, embedded_at = time.time() - record.started_at_seconds, time.monotonic()
        indexed = snapshot.finish(progress=watch_shards)
    except BaseException:
        builds.cancel()
        raise
    assert builds.first_started_at is not None, "a corpus has at least one part"
    at_last = {"index": indexed.seconds_by_stage["build"], "gate": indexed.seconds_by_stage["gate"]}
    hidden_seconds = embedded_at - builds.first_started_at
    record.seconds = {"embed": embed_seconds, **at_last, "index": hidden_seconds + at_last["index"]}
    record.seconds_after_embedding = at_last
    return embedded, indexed


def _swap(store: Store, service: RetrievalClient, snapshot_id: str) -> SwapResult:
    """Where the service answers that another snapshot stays live, that one is the store's live one again."""
    try:
        return service.swap(snapshot_id)
    except RealmError:
        with suppress(RealmError):
            if service.live_snapshot().snapshot_id != snapshot_id == live_snapshot_id(store):
                rollback(store)
        raise


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
