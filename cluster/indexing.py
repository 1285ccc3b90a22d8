"""From embeddings to a gated snapshot: shards are built side by side by Ray tasks, then searched at many settings."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from cluster.calls import as_realm_error, dead_process
from realm_core.index.gate import GateReport
from realm_core.index.merge import merge_top_k
from realm_core.index.setting import SearchSetting
from realm_core.index.shard_building import BuiltShard, build_shard, uid_digest_of
from realm_core.index.shards import ShardPlan, ShardSearcher, plan_shards
from realm_core.index.tuning import (
    RECALL_AT,
    SettingMeasurement,
    ShardMeasurement,
    choose,
    curve,
    first_settings,
    last_settings,
    measure,
    require_choice,
)
from realm_core.storage.files import Store
from realm_core.storage.snapshots import ShardEntry, SnapshotManifest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from realm_core.index.searcher import SearchHits
    from realm_core.index.specs import IndexSpec
    from realm_core.storage.block_store import CorpusManifest

NUM_GATE_HITS = max(RECALL_AT)
SHARD_CPUS = 0.25
BYTES_PER_SHARD_ROW = 450
"""Of a `faiss` shard while it is built: what is written, 296 at 128 dimensions, and the training sample."""


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
    chosen: SettingMeasurement
    """How it is searched, and what that finds."""
    seconds_by_stage: dict[str, float]
    """`build` and `tune`; what is left of `seconds` is the gate."""
    seconds: float

    @property
    def recall_at(self) -> dict[str, float]:
        """Against exact search, on the sampled queries."""
        point = self.chosen
        return {"recall@1": point.recall_at_1, "recall@5": point.recall_at_5, "recall@10": point.recall_at_10}


def index_corpus(
    store: Store,
    encoded: EncodedCorpus,
    *,
    gate_queries_BD: np.ndarray,
    num_shards: int,
    spec: IndexSpec,
    target_recall: float,
    progress: Callable[[int], None] = lambda _: None,
) -> IndexResult:
    """Builds the shards, chooses how to search them and runs the gate.

    Raises:
        GateError: names the check that failed; nothing was published.
        RealmError: what the building of a shard raised.
    """
    started = time.monotonic()
    where = f"snapshot of encoder {encoded.encoder_digest[:12]} at step {encoded.encoder_step}"
    plans = plan_shards(encoded.corpus.parts, encoded.embedding_digests, num_shards=num_shards, spec=spec)
    queries = ray.put(gate_queries_BD)
    shards = _build_all(store, plans, queries, progress)
    built = time.monotonic()
    entries = [shard.entry for shard in shards]
    exact = merge_top_k([shard.exact for shard in shards], NUM_GATE_HITS)
    points = _tune(store, entries, queries, exact, target_recall)
    chosen = require_choice(points, target_recall, where=where)
    tuned = time.monotonic()
    gate = _gate(encoded.corpus, shards, chosen.recall_at_5, target_recall)
    gate.raise_if_failed(where=where)
    manifest = SnapshotManifest(
        corpus_digest=encoded.corpus.digest,
        encoder_digest=encoded.encoder_digest,
        encoder_step=encoded.encoder_step,
        encoder_saved_at_seconds=encoded.encoder_saved_at_seconds,
        precision=encoded.precision,
        dimension=gate_queries_BD.shape[1],
        index_spec=asdict(spec),
        search_setting=chosen.setting.to_json(),
        tuning=[point.to_json() for point in points],
        shards=tuple(entries),
        embedding_digests=encoded.embedding_digests,
        gate=gate.to_json(),
    )
    return IndexResult(
        manifest=manifest,
        num_reused_shards=sum(shard.was_reused for shard in shards),
        num_bytes=sum(entry.num_bytes for entry in entries),
        chosen=chosen,
        seconds_by_stage={"build": built - started, "tune": tuned - built},
        seconds=time.monotonic() - started,
    )


@ray.remote
def _build_shard(store_url: str, plan: ShardPlan, gate_queries_BD: np.ndarray, threads: int) -> BuiltShard:
    _use_threads(threads)
    return build_shard(Store(store_url), plan, gate_queries_BD, num_hits=NUM_GATE_HITS)


@ray.remote
def _measure_shard(
    store_url: str, entry: ShardEntry, gate_queries_BD: np.ndarray, exact: SearchHits, settings: Sequence[SearchSetting]
) -> list[ShardMeasurement]:
    """On one core, so that seconds can be compared."""
    _use_threads(1)
    return measure(ShardSearcher(Store(store_url), entry, is_verified=True), gate_queries_BD, exact, settings)


def _build_all(
    store: Store,
    plans: Sequence[ShardPlan],
    queries: Any,  # noqa: ANN401 - a reference
    progress: Callable[[int], None],
) -> list[BuiltShard]:
    threads = max(1, int(ray.cluster_resources().get("CPU", 1.0)) // len(plans))
    memory = BYTES_PER_SHARD_ROW * max(plan.num_rows for plan in plans)
    task = _build_shard.options(num_cpus=SHARD_CPUS, memory=memory, max_retries=3)
    refs = [task.remote(store.url, plan, queries, threads) for plan in plans]
    waiting: list[Any] = list(refs)
    while waiting:
        _, waiting = ray.wait(waiting, timeout=1.0)
        progress(len(refs) - len(waiting))
    return _values(refs)


def _tune(
    store: Store,
    entries: Sequence[ShardEntry],
    queries: Any,  # noqa: ANN401 - a reference
    exact: SearchHits,
    target_recall: float,
) -> list[SettingMeasurement]:
    """The measured curve; the costly settings only where the others find too little."""
    task = _measure_shard.options(num_cpus=SHARD_CPUS, max_retries=3)
    truth = ray.put(exact)
    points: list[SettingMeasurement] = []
    for settings in (first_settings(entries), last_settings(entries)):
        if settings and choose(points, target_recall) is None:
            measured = _values([task.remote(store.url, entry, queries, truth, settings) for entry in entries])
            points += curve(measured, entries, exact)
    return points


def _values(refs: list[Any]) -> list[Any]:
    try:
        return list(ray.get(refs))
    except RayTaskError as error:
        raise as_realm_error(error) from error
    except RayError as error:  # killed, out of memory, or its node is gone, again and again
        raise dead_process("building an index shard", error) from error


def _use_threads(threads: int) -> None:
    import faiss  # here: the driver needs none

    faiss.omp_set_num_threads(threads)


def _gate(corpus: CorpusManifest, shards: Sequence[BuiltShard], recall_at_5: float, target_recall: float) -> GateReport:
    report = GateReport()
    num_uids, num_rows = sum(len(s.uids) for s in shards), sum(s.entry.num_rows for s in shards)
    uid_digest = uid_digest_of(shards)
    report.check("rows", found=num_uids, expected=corpus.num_blocks, passed=num_uids == corpus.num_blocks)
    report.check("rows of shards", found=num_rows, expected=corpus.num_blocks, passed=num_rows == corpus.num_blocks)
    report.check("uid digest", found=uid_digest, expected=corpus.uid_digest, passed=uid_digest == corpus.uid_digest)
    report.check("recall@5", found=recall_at_5, expected=f">= {target_recall}", passed=recall_at_5 >= target_recall)
    return report
