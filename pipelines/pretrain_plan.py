"""What `realm pretrain --dry-run` prints: how a run would be laid out, on the cluster that is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.retrieval.memory import memory_of_swap
from pipelines.run_start import schedule_text
from realm_core.training.schedule import ScheduleConfig

if TYPE_CHECKING:
    from cluster.resources import ResourcePlan
    from pipelines.configs.pretrain import PretrainConfig
    from realm_core.storage.block_store import CorpusManifest
    from realm_core.storage.snapshots import SnapshotManifest


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainPlanReport:
    """The layout of a run that was not started; everything that can be checked beforehand was."""

    config: PretrainConfig
    resources: ResourcePlan
    corpus: CorpusManifest
    start: SnapshotManifest
    num_cpus: float
    """Of the cluster."""
    num_gpus: float

    def rows(self) -> list[tuple[str, object]]:
        """For the table."""
        config, plan = self.config, self.resources
        schedule = ScheduleConfig(
            num_steps=config.num_steps, learning_rate=config.learning_rate, num_warmup_steps=config.num_warmup_steps
        )
        ranks = plan.trainer_workers
        memory = memory_of_swap(self.start, self.start, replicas=1, free_bytes=0)
        return [
            ("dry run", "nothing was started or written; all checks passed; each rank and embedding actor has a place"),
            ("cluster", f"{self.num_cpus:g} CPUs, {self.num_gpus:g} GPUs"),
            ("trainer", f"{ranks} ranks of {_device(plan.trainer_gpus, plan.trainer_threads)}, {plan.precision}"),
            (
                "batch",
                f"{ranks} ranks x {config.batch_size} = {ranks * config.batch_size} sentences, "
                f"{config.num_candidates} candidates each",
            ),
            ("schedule", schedule_text(schedule)),
            (
                "refresher",
                f"{plan.embedding.num_workers} embedding actors of "
                f"{_device(plan.embedding.gpus, plan.embedding.threads)}, {config.num_shards} index shards",
            ),
            ("refreshes", f"every {config.refresh_interval_steps:,} steps, {self._num_refreshes():,} in all"),
            ("corpus", f"{self.corpus.num_blocks:,} blocks in {len(self.corpus.parts):,} parts"),
            ("starts from", f"snapshot {self.start.snapshot_id}"),
            ("memory of the service", f"{memory.live_bytes / 1e9:.2f} GB, twice that while it swaps"),
        ]

    def _num_refreshes(self) -> int:
        """One at the end, and as many before it as `cluster.pretraining` makes."""
        num_steps, interval_steps = self.config.num_steps, self.config.refresh_interval_steps
        if self.config.max_staleness_steps is not None:
            return -(-num_steps // interval_steps)
        return max(1, num_steps // interval_steps)


def _device(gpus: float, threads: int) -> str:
    return f"{gpus:g} GPU and {threads} threads" if gpus else f"{threads} CPU threads"
