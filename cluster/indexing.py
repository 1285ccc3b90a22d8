"""From embeddings to a gated snapshot: shards are built, a way of searching them is chosen, all is checked.

A shard can be built and measured before the others are embedded; the choice and the gate wait for all of them. What
comes out is a function of the embeddings, whatever the order in which parts came.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from cluster.shard_builds import NUM_GATE_HITS, ShardBuilds
from realm_core.index.gate import GateReport
from realm_core.index.merge import merge_top_k
from realm_core.index.shard_building import BuiltShard, uid_digest_of
from realm_core.index.shards import plan_shards
from realm_core.index.tuning import SettingMeasurement, enough_for_a_shard, first_settings, require_choice, tune
from realm_core.storage.snapshots import SnapshotManifest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from realm_core.index.specs import IndexSpec
    from realm_core.storage.block_store import CorpusManifest
    from realm_core.storage.files import Store


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
    """`build`: shards built and measured; `gate`: what they find counted, the setting chosen, all checked."""
    seconds: float

    @property
    def recall_at(self) -> dict[str, float]:
        """Against exact search, on the sampled queries."""
        point = self.chosen
        return {"recall@1": point.recall_at_1, "recall@5": point.recall_at_5, "recall@10": point.recall_at_10}


class SnapshotBuild:
    """A snapshot in the making: tell it which parts are embedded, then `finish`."""

    def __init__(
        self,
        store: Store,
        encoded: EncodedCorpus,
        *,
        gate_queries_BD: np.ndarray,
        num_shards: int,
        spec: IndexSpec,
        target_recall: float,
    ) -> None:
        """Starts nothing yet. The embeddings that `encoded` names need not be there."""
        self._encoded, self._spec, self._dimension = encoded, spec, gate_queries_BD.shape[1]
        self._target_recall = target_recall
        plans = plan_shards(encoded.corpus.parts, encoded.embedding_digests, num_shards=num_shards, spec=spec)
        self._settings = first_settings([plan.entry(num_bytes=0) for plan in plans])
        self.builds = ShardBuilds(store, plans, gate_queries_BD, self._settings, enough_for_a_shard(target_recall))

    def finish(self, *, progress: Callable[[int], None] = lambda _: None) -> IndexResult:
        """Waits for the shards, chooses how to search them and runs the gate; every part was added by then.

        Raises:
            GateError: names the check that failed; nothing was published.
            RealmError: what the building of a shard raised.
        """
        started = time.monotonic()
        encoded = self._encoded
        where = f"snapshot of encoder {encoded.encoder_digest[:12]} at step {encoded.encoder_step}"
        measured = self.builds.wait(progress)
        built_at = time.monotonic()
        shards = [shard.built for shard in measured]
        points = tune(
            [shard.measurements for shard in measured],
            self._settings,
            [shard.entry for shard in shards],
            merge_top_k([shard.exact for shard in shards], NUM_GATE_HITS),
            target_recall=self._target_recall,
            measure_more=partial(self.builds.measure_again, measured),
        )
        chosen = require_choice(points, self._target_recall, where=where)
        gate = _gate(encoded.corpus, shards, chosen.recall_at_5, self._target_recall)
        gate.raise_if_failed(where=where)
        manifest = SnapshotManifest(
            corpus_digest=encoded.corpus.digest,
            encoder_digest=encoded.encoder_digest,
            encoder_step=encoded.encoder_step,
            encoder_saved_at_seconds=encoded.encoder_saved_at_seconds,
            precision=encoded.precision,
            dimension=self._dimension,
            index_spec=asdict(self._spec),
            search_setting=chosen.setting.to_json(),
            tuning=[point.to_json() for point in points],
            shards=tuple(shard.entry for shard in shards),
            embedding_digests=encoded.embedding_digests,
            gate=gate.to_json(),
        )
        ended = time.monotonic()
        return IndexResult(
            manifest=manifest,
            num_reused_shards=sum(shard.was_reused for shard in shards),
            num_bytes=sum(shard.entry.num_bytes for shard in shards),
            chosen=chosen,
            seconds_by_stage={"build": built_at - started, "gate": ended - built_at},
            seconds=ended - started,
        )


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
    """Builds the shards of a corpus that is embedded, all side by side; see `SnapshotBuild.finish`."""
    snapshot = SnapshotBuild(
        store,
        encoded,
        gate_queries_BD=gate_queries_BD,
        num_shards=num_shards,
        spec=spec,
        target_recall=target_recall,
    )
    snapshot.builds.add_parts(range(len(encoded.corpus.parts)))
    return snapshot.finish(progress=progress)


def _gate(corpus: CorpusManifest, shards: Sequence[BuiltShard], recall_at_5: float, target_recall: float) -> GateReport:
    report = GateReport()
    num_uids, num_rows = sum(len(s.uids) for s in shards), sum(s.entry.num_rows for s in shards)
    uid_digest = uid_digest_of(shards)
    report.check("rows", found=num_uids, expected=corpus.num_blocks, passed=num_uids == corpus.num_blocks)
    report.check("rows of shards", found=num_rows, expected=corpus.num_blocks, passed=num_rows == corpus.num_blocks)
    report.check("uid digest", found=uid_digest, expected=corpus.uid_digest, passed=uid_digest == corpus.uid_digest)
    report.check("recall@5", found=recall_at_5, expected=f">= {target_recall}", passed=recall_at_5 >= target_recall)
    return report
