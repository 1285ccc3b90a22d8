"""`realm embed`: block records in, embeddings out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.address import joins_a_cluster
from cluster.embedding import EmbeddingPool, cluster_nodes
from cluster.refresh import embed_counts
from cluster.resources import EmbeddingPlan, plan_embedding
from cluster.session import ray_session
from pipelines.configs.embed import EmbedConfig
from pipelines.display import Display, say
from pipelines.encoders import encoder_to_use
from realm_core.engines.completeness import check_embedded
from realm_core.engines.loading import StoreEngineLoader
from realm_core.engines.precision import precision_name, resolve_precision
from realm_core.errors import UsageError
from realm_core.storage.block_store import load_corpus
from realm_core.storage.embedded_corpus import EmbeddedCorpus, save_embedded_corpus
from realm_core.storage.files import Store
from realm_core.storage.lock import writer_lock

if TYPE_CHECKING:
    from cluster.embedding import EmbedResult
    from cluster.embedding_progress import EmbedProgress
    from pipelines.display import Bar, Line
    from realm_core.storage.block_store import CorpusManifest


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedReport:
    """Counts that add up: parts = made + reused, rows = rows made + rows reused; plain values."""

    encoder_digest: str
    precision: str
    counts: dict[str, int]
    """Parts, rows and retries; damaged parts are among the made."""
    seconds: float
    """Of the whole embedding, start-up included."""
    start_up_seconds: float
    num_tokens: int
    """Embedded in this run."""
    share_of_peak: float | None
    """Of what the devices could have done after start-up; None when unknown."""
    num_checks: int

    def rows(self) -> list[tuple[str, object]]:
        """For the table at the end."""
        seconds = self.seconds - self.start_up_seconds
        counts = {name: count for name, count in self.counts.items() if count or name != "parts_damaged"}
        return [
            *((name.replace("_", " "), count) for name, count in counts.items()),
            *(self._rates(seconds) if self.num_tokens else []),
            ("seconds", f"{seconds:.1f}, after {self.start_up_seconds:.1f} of start-up"),
            ("checks", f"{self.num_checks} passed"),
            ("precision", self.precision),
            ("encoder", self.encoder_digest[:12]),
        ]

    def _rates(self, seconds: float) -> list[tuple[str, object]]:
        """Of what was embedded in this run, over the time that actors were there."""
        rates: list[tuple[str, object]] = [
            ("blocks/s", f"{self.counts['rows_made'] / max(seconds, 1e-9):,.1f}"),
            ("tokens/s", f"{self.num_tokens / max(seconds, 1e-9):,.0f}"),
        ]
        if self.share_of_peak is not None:
            rates.append(("share of the devices' peak", f"{self.share_of_peak:.1%}"))
        return rates


def run_embed(config: EmbedConfig) -> EmbedReport:
    """Embeds what is missing; a rerun after any crash does the rest.

    Raises:
        EncoderError, StoreError: nothing to embed, or nothing to embed it with.
        BlockError: blocks that cannot be embedded; the others are.
        GateError: the embeddings do not hold every block exactly once.
    """
    store = Store(config.store)
    corpus = load_corpus(store)
    with writer_lock(store, "realm embed"):
        encoder = encoder_to_use(store, config.encoder, corpus)
        with ray_session(config.address), Display() as display:
            plan = _plan(config)
            precision = _precision(config, store, corpus, encoder.digest, on_gpu=plan.gpus > 0)
            say(
                f"embed: {corpus.num_blocks:,} blocks in {len(corpus.parts)} parts by encoder {encoder.digest[:12]} in "
                f"{precision}, actors with {'one GPU' if plan.gpus else f'{plan.threads} CPU threads'} each"
            )
            bar = display.task("embed", total=corpus.num_blocks, unit="blocks")
            loader = StoreEngineLoader(device=plan.device, threads=plan.threads)
            pool = EmbeddingPool(store.url, plan, loader, precision=precision)
            try:
                embedded = pool.embed(corpus.parts, encoder.digest, progress=lambda now: _show(bar, now))
            finally:
                pool.close()
        num_checks = _check_and_record(store, corpus, encoder.digest, precision, embedded)
    return EmbedReport(
        encoder_digest=encoder.digest,
        precision=precision,
        counts=embed_counts(embedded),
        seconds=embedded.seconds,
        start_up_seconds=embedded.start_up_seconds,
        num_tokens=embedded.work.num_tokens,
        share_of_peak=embedded.share_of_peak,
        num_checks=num_checks,
    )


def _plan(config: EmbedConfig) -> EmbeddingPlan:
    device = "cpu" if config.precision == "int8" else config.device
    nodes = cluster_nodes()
    if device == "cuda" and not any(node.gpus for node in nodes) and not joins_a_cluster(config.address):
        raise UsageError(
            where="realm embed",
            found="--device cuda on a machine without a GPU",
            expected="a GPU here, or --address of a cluster that has GPUs or scales up to them",
            action="Take --device cpu, or name a cluster.",
        )
    return plan_embedding(
        nodes,
        num_workers=config.num_workers,
        threads_per_worker=config.threads_per_worker,
        device=device,
    )


def _precision(config: EmbedConfig, store: Store, corpus: CorpusManifest, encoder_digest: str, *, on_gpu: bool) -> str:
    """The name that the embeddings go by."""
    if config.precision == "int8":
        from realm_core.engines.quantization import prepare_int8

        return precision_name(prepare_int8(store, encoder_digest, corpus, say), config.stored_as)
    return precision_name(resolve_precision(config.precision, on_gpu=on_gpu), config.stored_as)


def _check_and_record(
    store: Store, corpus: CorpusManifest, encoder_digest: str, precision: str, embedded: EmbedResult
) -> int:
    """Returns the number of checks. Raises `GateError` when one failed; then nothing is recorded."""
    report = check_embedded(corpus, embedded.parts)
    report.raise_if_failed(where=f"embeddings of corpus {corpus.digest[:12]} by encoder {encoder_digest[:12]}")
    record = EmbeddedCorpus(
        corpus_digest=corpus.digest,
        encoder_digest=encoder_digest,
        precision=precision,
        dimension=embedded.parts[0].dimension,
        num_rows=corpus.num_blocks,
        embedding_digests=tuple(part.embedding_digest for part in embedded.parts),
        checks=report.to_json(),
        created_at_seconds=time.time(),
    )
    save_embedded_corpus(store, record)
    return len(report.checks)


def _show(bar: Bar | Line, now: EmbedProgress) -> None:
    peak = "" if now.share_of_peak is None else f"{now.share_of_peak:.0%} of peak"
    retries = f"{now.num_retries} retries" if now.num_retries else ""
    tokens = f"{now.tokens_per_second:,.0f} tokens/s" if now.tokens_per_second else ""
    facts = (tokens, peak, f"{now.num_ready}/{now.num_asked_for} workers", retries)
    bar.update(now.rows_done, rate=now.rows_per_second, note="  ".join(fact for fact in facts if fact))
