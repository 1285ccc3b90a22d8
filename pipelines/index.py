"""`realm index`: embeddings in, a gated and published snapshot out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cluster.indexing import EncodedCorpus, IndexResult, index_corpus
from cluster.refresh import gate_queries
from cluster.session import ray_session
from pipelines.configs.index import IndexConfig
from pipelines.display import Display
from realm_core.engines.loading import engine_of
from realm_core.engines.precision import Precision, arithmetic_of, resolve_precision
from realm_core.errors import ArtifactMissingError
from realm_core.index.setting import setting_text
from realm_core.index.specs import IndexSpec
from realm_core.storage.block_store import BlockRecords, load_corpus
from realm_core.storage.embedded_corpus import has_embedded_corpus, load_embedded_corpus
from realm_core.storage.embedding_store import embedding_digest, embedding_path, embeddings_are_whole
from realm_core.storage.encoder_pointer import EncoderVersion, current_encoder
from realm_core.storage.encoder_store import get_encoder
from realm_core.storage.files import Store
from realm_core.storage.lock import writer_lock
from realm_core.storage.snapshots import publish

if TYPE_CHECKING:
    from realm_core.storage.block_store import CorpusManifest

QUERIES_PER_STEP = 64
"""Encoded between two looks at the progress."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexReport:
    """What was built and how well it finds."""

    snapshot_id: str
    precision: str
    num_rows: int
    num_shards: int
    num_shards_asked_for: int
    num_reused_shards: int
    num_bytes: int
    recall_at: dict[str, float]
    setting: str
    queries_per_second_per_core: float
    seconds_by_stage: dict[str, float]
    seconds: float

    def rows(self) -> list[tuple[str, object]]:
        """For the table at the end."""
        recall = [(name + " against exact search", f"{value:.4f}") for name, value in self.recall_at.items()]
        return [
            ("snapshot", self.snapshot_id + " (published)"),
            ("rows", self.num_rows),
            ("precision of the embeddings", self.precision),
            ("shards", f"{self.num_shards} ({self.num_reused_shards} reused){self._fewer()}"),
            ("bytes per row", f"{self.num_bytes / self.num_rows:.0f}"),
            ("searched with", self.setting),
            *recall,
            ("queries/s on one core, in a batch", f"{self.queries_per_second_per_core:,.0f}"),
            ("seconds", f"{self.seconds:.1f} ({self._stages()})"),
        ]

    def _stages(self) -> str:
        return ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in self.seconds_by_stage.items())

    def _fewer(self) -> str:
        is_fewer = self.num_shards < self.num_shards_asked_for
        return f"; {self.num_shards_asked_for} asked for, but the corpus has no more parts" if is_fewer else ""


def run_index(config: IndexConfig) -> IndexReport:
    """Builds what is missing, runs the gate and publishes.

    Raises:
        ArtifactMissingError: embeddings are missing; `realm embed` makes them.
        GateError: a check failed; the published snapshot stays what it was.
    """
    store = Store(config.store)
    corpus = load_corpus(store)
    with writer_lock(store, "realm index"):
        encoder = current_encoder(store)
        encoded = _require_embeddings(store, corpus, encoder, _precision(config, store, corpus, encoder))
        with ray_session(config.address), Display() as display:
            started = time.monotonic()
            queries_BD = _encode_gate_queries(store, corpus, encoder, display)
            encode_seconds = time.monotonic() - started
            bar = display.task("index", total=config.num_shards, unit="shards")
            result = index_corpus(
                store,
                encoded,
                gate_queries_BD=queries_BD,
                num_shards=config.num_shards,
                spec=IndexSpec(kind=config.kind),
                target_recall=config.target_recall,
                progress=bar.update,
            )
        publish(store, result.manifest)
    return _report(result, config.num_shards, encode_seconds)


def _precision(config: IndexConfig, store: Store, corpus: CorpusManifest, encoder: EncoderVersion) -> str:
    """Unless others are asked for: the published embeddings, if the encoder came with some, and of this corpus; else
    those that `realm embed` completed last."""
    has_record = has_embedded_corpus(store, corpus.digest, encoder.digest)
    last = load_embedded_corpus(store, corpus.digest, encoder.digest).precision if has_record else None
    if config.precision != "auto":
        return _named_precision(config.precision, last)
    published = encoder.published_precision
    if published is not None:
        digests = (embedding_digest(part.digest, encoder.digest, published) for part in corpus.parts)
        if any(store.exists(embedding_path(digest)) for digest in digests):
            return published
    return last or resolve_precision("auto", on_gpu=torch.cuda.is_available())


def _named_precision(precision: Precision, last: str | None) -> str:
    """The full name of what was asked for, which also says how it is stored and, for int8, how it was calibrated."""
    if last is not None and arithmetic_of(last).split("-")[0] == precision:
        return last
    if precision == "int8":
        raise ArtifactMissingError(
            where="realm index --precision int8",
            found=f"{last or 'nothing'}, embedded completely last",
            expected="int8 embeddings of the whole corpus",
            action="Run `realm embed --precision int8` first.",
        )
    return precision


def _require_embeddings(store: Store, corpus: CorpusManifest, encoder: EncoderVersion, precision: str) -> EncodedCorpus:
    digests = tuple(embedding_digest(part.digest, encoder.digest, precision) for part in corpus.parts)
    pairs = zip(digests, corpus.parts, strict=True)
    missing = [part for digest, part in pairs if not embeddings_are_whole(store, digest, part)]
    if missing:
        command = "realm convert" if precision == encoder.published_precision else "realm embed"
        raise ArtifactMissingError(
            where=f"store {store.url}, encoder {encoder.digest[:12]}",
            found=f"{len(missing)} of {len(corpus.parts)} parts without whole {precision} embeddings",
            expected="embeddings of every part",
            action=f"Run `{command}` on this store; it makes only what is missing.",
        )
    return EncodedCorpus(
        corpus=corpus,
        encoder_digest=encoder.digest,
        encoder_step=encoder.step,
        encoder_saved_at_seconds=encoder.saved_at_seconds,
        precision=precision,
        embedding_digests=digests,
    )


def _encode_gate_queries(store: Store, corpus: CorpusManifest, encoder: EncoderVersion, display: Display) -> np.ndarray:
    engine = engine_of(get_encoder(store, encoder.digest))
    queries = gate_queries(BlockRecords(store, corpus))
    bar = display.task("queries", total=len(queries), unit="queries")
    embeddings = []
    for start in range(0, len(queries), QUERIES_PER_STEP):
        step = queries[start : start + QUERIES_PER_STEP]
        embeddings.append(engine.encode_queries([np.asarray(query, dtype=np.uint16) for query in step]))
        bar.update(start + len(step))
    return np.concatenate(embeddings)


def _report(result: IndexResult, num_shards_asked_for: int, encode_seconds: float) -> IndexReport:
    return IndexReport(
        snapshot_id=result.manifest.snapshot_id,
        precision=result.manifest.precision,
        num_rows=result.manifest.num_rows,
        num_shards=len(result.manifest.shards),
        num_shards_asked_for=num_shards_asked_for,
        num_reused_shards=result.num_reused_shards,
        num_bytes=result.num_bytes,
        recall_at=result.recall_at,
        setting=setting_text(result.chosen.setting, result.manifest.shards),
        queries_per_second_per_core=result.chosen.queries_per_second_per_core,
        seconds_by_stage={"queries": encode_seconds} | result.seconds_by_stage,
        seconds=encode_seconds + result.seconds,
    )
