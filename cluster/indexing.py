"""From embeddings to a gated, published snapshot: shards are built side by side by Ray tasks."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.exceptions import RayTaskError

from cluster.calls import as_realm_error
from realm_core.index.gate import GateReport, measure_recall
from realm_core.index.merge import merge_top_k
from realm_core.index.setting import DEFAULT_SETTING
from realm_core.index.shards import BuiltShard, ShardPlan, build_shard, plan_shards, uid_digest_of
from realm_core.storage.files import Store
from realm_core.storage.snapshots import SnapshotManifest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from realm_core.index.specs import IndexSpec
    from realm_core.storage.block_store import CorpusManifest

NUM_GATE_HITS = 10
RECALL_AT = (1, 5, 10)
SHARD_CPUS = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedCorpus:
    """Embeddings of a whole corpus by one encoder."""

    corpus: CorpusManifest
    encoder_digest: str
    encoder_step: int
    encoder_saved_at_seconds: float
    precision: str
    embedding_digests: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexResult:
    """A snapshot that passed its gate, not yet published."""

    manifest: SnapshotManifest
    num_reused_shards: int
    num_bytes: int
    recall_at: dict[str, float]
    seconds: float


def index_corpus(
    store: Store,
    encoded: EncodedCorpus,
    *,
    gate_queries_BD: np.ndarray,
    num_shards: int,
    spec: IndexSpec,
    min_recall_at_10: float,
    progress: Callable[[int], None] = lambda _: None,
) -> IndexResult:
    """Builds the shards and runs the gate.

    Raises:
        GateError: names the check that failed; nothing was published.
        RealmError: what the building of a shard raised.
    """
    started = time.monotonic()
    plans = plan_shards(encoded.corpus.parts, encoded.embedding_digests, num_shards=num_shards, spec=spec)
    shards = _build_all(store, plans, gate_queries_BD, progress)
    recall_at = _recall(shards)
    gate = _gate(encoded.corpus, shards, recall_at, min_recall_at_10)
    gate.raise_if_failed(where=f"snapshot of encoder {encoded.encoder_digest[:12]} at step {encoded.encoder_step}")
    manifest = SnapshotManifest(
        corpus_digest=encoded.corpus.digest,
        encoder_digest=encoded.encoder_digest,
        encoder_step=encoded.encoder_step,
        encoder_saved_at_seconds=encoded.encoder_saved_at_seconds,
        precision=encoded.precision,
        dimension=gate_queries_BD.shape[1],
        index_spec=asdict(spec),
        search_setting=DEFAULT_SETTING.to_json(),
        tuning=[],
        shards=tuple(shard.entry for shard in shards),
        embedding_digests=encoded.embedding_digests,
        gate=gate.to_json(),
    )
    return IndexResult(
        manifest=manifest,
        num_reused_shards=sum(shard.was_reused for shard in shards),
        num_bytes=sum(shard.entry.num_bytes for shard in shards),
        recall_at=recall_at,
        seconds=time.monotonic() - started,
    )


@ray.remote
def _build_shard(store_url: str, plan: ShardPlan, gate_queries_BD: np.ndarray) -> BuiltShard:
    return build_shard(Store(store_url), plan, gate_queries_BD, num_hits=NUM_GATE_HITS)


def _build_all(
    store: Store, plans: Sequence[ShardPlan], gate_queries_BD: np.ndarray, progress: Callable[[int], None]
) -> list[BuiltShard]:
    queries = ray.put(gate_queries_BD)
    task = _build_shard.options(num_cpus=SHARD_CPUS, max_retries=3)
    refs = [task.remote(store.url, plan, queries) for plan in plans]
    waiting: list[Any] = list(refs)
    while waiting:
        _, waiting = ray.wait(waiting, timeout=1.0)
        progress(len(refs) - len(waiting))
    try:
        return list(ray.get(refs))
    except RayTaskError as error:
        raise as_realm_error(error) from error


def _recall(shards: Sequence[BuiltShard]) -> dict[str, float]:
    approximate = merge_top_k([shard.approximate for shard in shards], NUM_GATE_HITS)
    exact = merge_top_k([shard.exact for shard in shards], NUM_GATE_HITS)
    return {f"recall@{k}": recall for k, recall in measure_recall(approximate, exact, at=RECALL_AT).items()}


def _gate(
    corpus: CorpusManifest, shards: Sequence[BuiltShard], recall_at: dict[str, float], min_recall_at_10: float
) -> GateReport:
    report = GateReport()
    num_uids, num_rows = sum(len(s.uids) for s in shards), sum(s.entry.num_rows for s in shards)
    uid_digest, recall = uid_digest_of(shards), recall_at["recall@10"]
    report.check("rows", found=num_uids, expected=corpus.num_blocks, passed=num_uids == corpus.num_blocks)
    report.check("rows of shards", found=num_rows, expected=corpus.num_blocks, passed=num_rows == corpus.num_blocks)
    report.check("uid digest", found=uid_digest, expected=corpus.uid_digest, passed=uid_digest == corpus.uid_digest)
    report.check("recall@10", found=recall, expected=f">= {min_recall_at_10}", passed=recall >= min_recall_at_10)
    return report
