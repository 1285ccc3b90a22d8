"""`realm demo`: the whole loop, once, on a real Wikipedia dump."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.retrieval_service import service_left_as_found, start_service
from cluster.session import ray_session
from pipelines.configs.demo import DemoConfig
from pipelines.configs.embed import EmbedConfig
from pipelines.configs.index import IndexConfig
from pipelines.configs.ingest import IngestConfig
from pipelines.configs.pretrain import PretrainConfig
from pipelines.configs.warmup import WarmupConfig
from pipelines.demo_inputs import encoder_path, excerpt_path, questions_path
from pipelines.demo_report import demo_rows, report_data
from pipelines.demo_stages import StageLog
from pipelines.display import clock, console, say
from pipelines.embed import run_embed
from pipelines.evidence_text import print_evidence
from pipelines.index import run_index
from pipelines.ingest import run_ingest
from pipelines.pretrain import pretrain
from pipelines.recall import measure_recall_at_5
from pipelines.report import require_writable_report, write_report
from pipelines.warmup import run_warmup
from realm_core.evaluation.datasets import read_questions
from realm_core.retrieval.evidence import EvidenceResult, EvidenceRetriever
from realm_core.storage.digests import digest_of
from realm_core.storage.files import Store
from realm_core.storage.lock import writer_lock

if TYPE_CHECKING:
    from collections.abc import Callable

EVIDENCE_CHARACTERS = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoReport:
    """What the demo came to: the record of each stage, in order."""

    stages: dict[str, dict[str, Any]]
    report: str
    was_done: bool

    def rows(self) -> list[tuple[str, object]]:
        """For the table at the end."""
        return [*demo_rows(self.stages), ("report", self.report), *self._was_done_row()]

    def _was_done_row(self) -> list[tuple[str, object]]:
        return [("this time", "everything was done already")] if self.was_done else []


def run_demo(config: DemoConfig) -> DemoReport:
    """Runs the stages that are not done; killed at any point, the same command goes on.

    Raises:
        RealmError: what a stage raised; the stages before it are kept.
    """
    require_writable_report(Path(config.report))
    source = config.source or excerpt_path()
    encoder = config.encoder or encoder_path()
    questions = config.questions or (None if config.source else questions_path())
    store = Store(config.store)
    with writer_lock(store, "realm demo"):
        key = digest_of({**asdict(config), "source": source, "encoder": encoder, "questions": questions, "report": ""})
        log = StageLog(store, f"demo/{key[:12]}")
        was_done = log.has("ask")
        if not was_done:
            with ray_session(config.address), service_left_as_found():
                _run_stages(config, store, log, source, encoder, questions)
        _print_asked(log)
        write_report(report_data(store, log.records()), Path(config.report))
    return DemoReport(stages=log.records(), report=config.report, was_done=was_done)


def _run_stages(
    config: DemoConfig, store: Store, log: StageLog, source: str, encoder: str, questions: str | None
) -> None:
    url = config.store
    embed = EmbedConfig(store=url, num_workers=config.num_workers)
    stages: list[tuple[str, str, Callable[[], dict[str, Any]]]] = [
        ("ingest", "read the dump into block records", lambda: asdict(
            run_ingest(IngestConfig(store=url, source=source, encoder=encoder)))),
        ("warmup", "train the projection on the inverse cloze task", lambda: asdict(
            run_warmup(_warmup_config(config, encoder)))),
        ("embed", "embed all blocks", lambda: asdict(run_embed(embed))),
        ("index", "build and publish a snapshot", lambda: asdict(
            run_index(IndexConfig(store=url, num_shards=config.num_shards)))),
        ("serve", "start the retrieval service and measure recall", lambda: _serve(store, questions)),
        ("pretrain", "train while the index is refreshed", lambda: asdict(
            pretrain(_pretrain_config(config, encoder, questions)))),
        ("ask", "ask questions", lambda: _ask(config, store)),
    ]  # fmt: skip
    for number, (name, what, run) in enumerate(stages, start=1):
        if log.has(name):
            say(f"[{number}/{len(stages)}] {name}: done already")
            continue
        say(f"[{number}/{len(stages)}] {name}: {what}")
        started = time.monotonic()
        log.write(name, run(), seconds=time.monotonic() - started)
        say(f"[{number}/{len(stages)}] {name}: done in {clock(time.monotonic() - started)}")


def _warmup_config(config: DemoConfig, encoder: str) -> WarmupConfig:
    return WarmupConfig(
        store=config.store,
        encoder=encoder,
        num_steps=config.warmup_steps,
        batch_size=config.warmup_batch_size,
        num_warmup_steps=max(1, config.warmup_steps // 10),
        checkpoint_interval_steps=10,
        dropout=0.0,
    )


def _pretrain_config(config: DemoConfig, encoder: str, questions: str | None) -> PretrainConfig:
    return PretrainConfig(
        store=config.store,
        encoder=encoder,
        num_steps=config.pretrain_steps,
        refresh_interval_steps=config.refresh_interval_steps,
        batch_size=config.batch_size,
        num_candidates=config.num_candidates,
        query_length_tokens=64,
        num_warmup_steps=max(1, config.pretrain_steps // 10),
        num_embedding_workers=config.num_workers,
        num_shards=config.num_shards,
        dropout=0.0,
        questions=questions,
    )


def _serve(store: Store, questions: str | None) -> dict[str, Any]:
    """The service stays up for the stages that follow."""
    client = start_service(store)
    status = client.status()
    record: dict[str, Any] = {"snapshot_id": status.snapshot.snapshot_id, "num_shards": status.num_shards}
    if questions:
        recall = measure_recall_at_5(EvidenceRetriever(store, client), read_questions(questions))
        say(f" recall@5  {recall.recall_at_5:.3f} on {recall.num_questions} questions, before pre-training")
        record["recall"] = recall.to_json()
    return record


def _ask(config: DemoConfig, store: Store) -> dict[str, Any]:
    found = EvidenceRetriever(store, start_service(store)).retrieve(config.ask, 3)
    return {"questions": list(config.ask), "found": asdict(found)}


def _print_asked(log: StageLog) -> None:
    record = log.read("ask")
    found = EvidenceResult.from_json(record["found"])
    print_evidence(record["questions"], found, max_characters=EVIDENCE_CHARACTERS)
    console().print()
