"""`realm embed`: block records in, embeddings out."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.embedding import EmbeddingPool
from cluster.refresh import embed_counts
from cluster.resources import plan_resources
from cluster.session import cluster_capacity, ray_session
from pipelines.display import Display
from pipelines.encoders import encoder_to_use
from pipelines.validation import at_least
from realm_core.engines.precision import PrecisionChoice
from realm_core.storage.block_store import load_corpus
from realm_core.storage.files import Store
from realm_core.storage.lock import writer_lock


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedConfig:
    """Embed all blocks of the store's corpus with Ray actors; parts that are done are not done again."""

    store: str
    """Where artifacts live: a local folder or an fsspec URL."""
    encoder: str | None = None
    """Directory or hub id of an embedder or any BERT-family checkpoint; by default the store's newest encoder."""
    num_workers: int = 2
    """Embedding actors; on a cluster with GPUs, one per GPU."""
    precision: PrecisionChoice = "auto"
    """Arithmetic of the embeddings: fp32, bf16, or auto: bf16 on GPUs and on CPUs with bf16 units."""
    address: str | None = None
    """Ray cluster to join (`auto`, `ray://...`); by default one is started on this machine."""

    def __post_init__(self) -> None:
        at_least("realm embed", num_workers=(self.num_workers, 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedReport:
    """Counts that add up: parts = made + reused."""

    encoder_digest: str
    counts: dict[str, int]
    seconds: float

    def rows(self) -> list[tuple[str, object]]:
        """For the table at the end."""
        named = [(name.replace("_", " "), value) for name, value in self.counts.items()]
        rate = self.counts["rows"] / max(self.seconds, 1e-9)
        return [*named, ("seconds", f"{self.seconds:.1f} ({rate:,.1f} rows/s)"), ("encoder", self.encoder_digest[:12])]


def run_embed(config: EmbedConfig) -> EmbedReport:
    """Embeds what is missing; a rerun after any crash does the rest.

    Raises:
        EncoderError, StoreError: nothing to embed, or nothing to embed it with.
    """
    store = Store(config.store)
    corpus = load_corpus(store)
    with writer_lock(store, "realm embed"):
        encoder = encoder_to_use(store, config.encoder, corpus)
        with ray_session(config.address), Display() as display:
            num_cpus, num_gpus = cluster_capacity()
            plan = plan_resources(
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                embedding_workers=config.num_workers,
                trainer_workers=0,
                precision=config.precision,
            )
            bar = display.task("embed", total=corpus.num_blocks, unit="blocks")
            pool = EmbeddingPool(store.url, plan)
            try:
                embedded = pool.embed(corpus.parts, encoder.digest, progress=bar.update)
            finally:
                pool.close()
    return EmbedReport(encoder_digest=encoder.digest, counts=embed_counts(embedded), seconds=embedded.seconds)
