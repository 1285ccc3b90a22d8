"""What `realm warmup` takes."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.resources import DeviceChoice
from pipelines.validation import at_least, require_optimizer_options
from realm_core.engines.precision import TrainingPrecisionChoice


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmupConfig:
    """Train the embedder on the inverse cloze task (ORQA): find the block that a sentence was taken from."""

    store: str
    """Where artifacts live: a local folder or an fsspec URL; `realm ingest` has filled it."""
    encoder: str
    """Directory or hub id of an embedder or any BERT-family checkpoint to start from."""
    separate_embedders: bool = False
    """Queries get an embedder of their own, a copy of the start's, in place of one that they share with blocks (the
    reference's `share_embedders=False`)."""
    num_steps: int = 100_000
    """Optimizer steps (ORQA: 100,000)."""
    batch_size: int = 64
    """Blocks per rank and step; all others of the step, over all ranks, are a query's negatives (ORQA: 4096)."""
    chunk_size: int | None = None
    """Blocks of a rank's batch that go through the embedder at once; by default all. The gradient is that of the whole
    batch, for one more forward pass (Gao et al. 2021). A run may go on with another value."""
    learning_rate: float = 1e-4
    """Peak of the schedule (ORQA: 1e-4)."""
    num_warmup_steps: int | None = None
    """Steps of linear rise; by default min(10000, max(100, steps / 10)), the reference's rule."""
    checkpoint_interval_steps: int = 500
    """Steps between checkpoints; a crash costs at most these."""
    num_trainers: int = 1
    """Ranks; on a cluster with GPUs, one per GPU."""
    dropout: float | None = None
    """Dropout probability; by default the checkpoint's."""
    device: DeviceChoice = "auto"
    """Where it runs: cuda, cpu, or auto: cuda where the cluster has GPUs, one for each rank."""
    precision: TrainingPrecisionChoice = "auto"
    """Arithmetic of forward and backward: fp32, bf16, or auto: bf16 on GPUs and on CPUs with bf16 units."""
    seed: int = 0
    """Of data order, sentence choice and dropout."""
    address: str | None = None
    """Ray cluster to join (`auto`, `ray://...`); by default one is started on this machine."""

    def __post_init__(self) -> None:
        at_least(
            "realm warmup",
            num_steps=(self.num_steps, 1),
            seed=(self.seed, 0),
            batch_size=(self.batch_size, 2),
            chunk_size=(self.batch_size if self.chunk_size is None else self.chunk_size, 1),
            checkpoint_interval_steps=(self.checkpoint_interval_steps, 1),
            num_trainers=(self.num_trainers, 1),
        )
        require_optimizer_options(
            "realm warmup",
            learning_rate=self.learning_rate,
            num_warmup_steps=self.num_warmup_steps,
            dropout=self.dropout,
        )
