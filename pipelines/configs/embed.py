"""What `realm embed` takes."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.resources import DeviceChoice
from pipelines.validation import at_least
from realm_core.engines.precision import PrecisionChoice, StoredAs
from realm_core.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedConfig:
    """Embed all blocks of the store's corpus with Ray actors; parts that are done are not done again."""

    store: str
    """Where artifacts live: a local folder or an fsspec URL."""
    encoder: str | None = None
    """Directory or hub id of an embedder or any BERT-family checkpoint; by default the store's newest encoder."""
    num_workers: int | None = None
    """At most so many embedding actors; those that the cluster has no room for wait until nodes join. By default one
    per GPU, or on CPUs one per so many cores as it has threads, growing with the cluster."""
    threads_per_worker: int | None = None
    """CPU threads of an actor; by default the cores of the smallest node or the actor's share of all, at most 8."""
    device: DeviceChoice = "auto"
    """cpu, cuda, or auto: GPUs if the cluster has any. Name cuda where GPU nodes are to be scaled up."""
    precision: PrecisionChoice = "auto"
    """Arithmetic of the embeddings: fp32, bf16, int8 (CPUs, calibrated on the corpus), or auto: bf16 on GPUs and on
    CPUs with bf16 units, else fp32."""
    stored_as: StoredAs = "float32"
    """Type of the stored values; float16 takes half the room."""
    address: str | None = None
    """Ray cluster to join (`auto`, `ray://...`); by default one is started on this machine."""

    def __post_init__(self) -> None:
        given = {"num_workers": self.num_workers, "threads_per_worker": self.threads_per_worker}
        at_least("realm embed", **{name: (value, 1) for name, value in given.items() if value is not None})
        if self.precision == "int8" and self.device == "cuda":
            raise UsageError(
                where="realm embed",
                found="--precision int8 with --device cuda",
                expected="int8 on CPUs; fp32 or bf16 on GPUs",
                action="Leave one of them out.",
            )
