"""The refresher: an actor with its own embedding workers that follows the trainer's newest checkpoint.

What it is at and what waits is in the run's folder. An actor that is started anew, by Ray or with the whole run, goes
on with the refresh that was cut off, which finds what it has made in the store, and then with the newest that waits.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import ray

from cluster.calls import get
from cluster.embedding import EmbeddingPool
from cluster.freshness import Freshness, FreshnessWait, wait_until_fresh
from cluster.refresh import IndexPlan, RefreshTask, gate_queries, refresh
from cluster.refresh_queue import NewestFirst
from cluster.refresh_record import RefreshRecord, StageProgress
from cluster.resources import LIGHT_OPTIONS
from cluster.retrieval.shard_processes import LOAD_TIMEOUT_SECONDS
from cluster.retrieval_service import RetrievalClient
from cluster.snapshot_overlap import SnapshotOverlap
from realm_core.errors import RealmError, ServiceUnavailableError
from realm_core.storage.block_store import BlockRecords, load_corpus
from realm_core.storage.encoder_pointer import EncoderVersion
from realm_core.storage.files import Store
from realm_core.storage.garbage import collect_garbage_of_run
from realm_core.training.run_folder import RunFolder

if TYPE_CHECKING:
    from cluster.resources import ResourcePlan
    from realm_core.engines.engine import EngineLoader

logger = logging.getLogger(__name__)

OFFERED = "offered"
"""Name of the run's document that holds the encoder that was offered last."""
MAX_ATTEMPTS = 3
"""So often may the refresher's process die in one refresh, before it is given up."""
ANSWER_TIMEOUT_SECONDS = 300.0
"""A refresher that is started anew answers when it has read the run's folder."""
LIVE_DEADLINE_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RefresherConfig:
    """What the refresher keeps fresh."""

    store_url: str
    corpus_digest: str
    run_name: str
    index: IndexPlan
    plan: ResourcePlan
    loader: EngineLoader
    """Of the embedding workers' engines."""
    num_kept_snapshots: int
    """So many of the newest stay in the store, besides the live one and the one before."""


@dataclass(frozen=True, slots=True)
class RefresherStatus:
    """Where the refresher is; `progress` is None while it waits for a checkpoint."""

    progress: StageProgress | None
    step: int
    pending_step: int | None
    records: list[dict[str, Any]]
    """`RefreshRecord.to_json` of all refreshes of the run, by step."""
    is_idle: bool
    """True when nothing is being refreshed and nothing waits."""
    is_ready: bool
    """True when its workers have begun, and a checkpoint will be taken at once."""


class Refresher:
    """Takes checkpoints to live snapshots, one at a time; a refresh that fails leaves the live snapshot alone."""

    def __init__(self, config: RefresherConfig) -> None:
        self._config = config
        self._store = Store(config.store_url)
        self._run = RunFolder(self._store, config.run_name)
        self._records = {record["step"]: RefreshRecord(**record) for record in self._run.read_refreshes()}
        self._mailbox = self._restored_mailbox()
        self._progress: StageProgress | None = None
        self._step = self._live_step = 0
        self._error = ""
        self._is_ready = False
        self._service: RetrievalClient | None = None
        corpus = load_corpus(self._store, config.corpus_digest)
        queries = gate_queries(BlockRecords(self._store, corpus))
        self._task = RefreshTask(
            store=self._store, corpus=corpus, pool=_start_pool(config), index=config.index, gate_queries=queries
        )
        self._overlap = SnapshotOverlap(queries)
        threading.Thread(target=self._follow, name="refresher", daemon=True).start()

    def offer(self, encoder: EncoderVersion) -> bool:
        """Hands over an encoder and returns at once; see `NewestFirst.offer`."""
        is_taken = self._mailbox.offer(encoder)
        if is_taken:
            self._run.write_document(OFFERED, asdict(encoder))
        return is_taken

    def status(self) -> RefresherStatus:
        """Where the refresher is, and what became of each refresh."""
        in_work, waiting = self._mailbox.in_work_and_waiting()
        records = dict(self._records)
        return RefresherStatus(
            progress=self._progress,
            step=self._step,
            pending_step=waiting.step if waiting else None,
            records=[records[step].to_json() for step in sorted(records)],
            is_idle=in_work is None and waiting is None,
            is_ready=self._is_ready,
        )

    def freshness(self) -> Freshness:
        """See `Freshness`."""
        coming = [encoder.step for encoder in self._mailbox.in_work_and_waiting() if encoder]
        with suppress(RealmError):  # a service that is started anew is as fresh as it was
            service = self._service or RetrievalClient.connect()
            self._live_step = service.live_snapshot(deadline_seconds=LIVE_DEADLINE_SECONDS).encoder_step
        return Freshness(live_step=self._live_step, coming_step=max([self._live_step, *coming]), error=self._error)

    def _restored_mailbox(self) -> NewestFirst:
        """As it was when the last process of this run's refresher died. A failed refresh may be offered once more."""
        steps = [step for step, record in self._records.items() if record.status != "failed"]
        cut_off = max((r for r in self._records.values() if r.status == "running"), key=lambda r: r.step, default=None)
        mailbox = NewestFirst(newest_step=max(steps, default=-1), cut_off=cut_off.encoder if cut_off else None)
        offered = self._run.read_document(OFFERED)
        if offered is not None and offered["step"] not in self._records:
            mailbox.offer(EncoderVersion(**offered))
        return mailbox

    def _follow(self) -> None:
        self._prepare()
        self._is_ready = True
        while True:
            encoder, skipped = self._mailbox.take()
            self._step = encoder.step
            self._watch(StageProgress(stage="embed", done=0, total=self._task.corpus.num_blocks))
            record = self._begin(encoder, skipped)
            self._refresh(record)
            if record.status == "live":
                record.garbage = self._collect_garbage()
            self._write(record)
            self._progress = None
            self._mailbox.done()

    def _prepare(self) -> None:
        """Asks the live snapshot before the first refresh is due."""
        with suppress(RealmError):  # without a service the first refresh fails, and says why
            self._overlap.look(RetrievalClient.connect(), self._task.pool)

    def _begin(self, encoder: EncoderVersion, skipped: list[EncoderVersion]) -> RefreshRecord:
        """The record of the refresh that begins, or goes on."""
        cut_off = self._records.get(encoder.step)
        if cut_off is not None and cut_off.status == "running":
            record = replace(cut_off, num_attempts=cut_off.num_attempts + 1, started_at_seconds=time.time())
        else:
            if self._error:
                self._collect_garbage()  # of the refresh that failed
            record = RefreshRecord.of(encoder, skipped=skipped, started_at_seconds=time.time())
        self._write(record)
        return record

    def _refresh(self, record: RefreshRecord) -> None:
        try:
            if record.num_attempts > MAX_ATTEMPTS:
                raise _dies_again(record)
            self._service = service = RetrievalClient.connect(timeout_seconds=LOAD_TIMEOUT_SECONDS)
            self._overlap.look(service, self._task.pool)
            queries_BD = refresh(self._task, record.encoder, service, record=record, progress=self._watch)
            record.overlap_at_10 = self._overlap.measure(service, queries_BD)
            record.status, self._error = "live", ""
        except Exception as error:  # noqa: BLE001 - training goes on with the live snapshot; the record says why
            record.status, record.error = "failed", _describe(error)
            self._error = record.error
            logger.error("Refresh from step %d failed, training goes on: %s", record.step, record.error)
        self._write(record)

    def _collect_garbage(self) -> dict[str, int]:
        in_use = {encoder.digest for encoder in self._mailbox.in_work_and_waiting() if encoder}
        done_with = {digest for r in self._records.values() for digest in (r.encoder_digest, *r.skipped_encoders)}
        try:
            report = collect_garbage_of_run(
                self._store, num_newest=self._config.num_kept_snapshots, old_encoders=done_with - in_use
            )
        except Exception as error:  # noqa: BLE001 - the next refresh tries again
            logger.warning("No garbage was collected, and the store grows: %s", _describe(error))
            return {}
        return {"snapshots": len(report.removed), "bytes": report.num_freed_bytes}

    def _write(self, record: RefreshRecord) -> None:
        """A store that cannot be written fails the refresh itself; that there is no file of it is said and no more."""
        self._records[record.step] = record
        try:
            self._run.write_refresh(record.step, record.to_json())
        except RealmError as error:
            logger.error("The refresh from step %d has no record in the store: %s", record.step, error)

    def _watch(self, progress: StageProgress) -> None:
        self._progress = progress


RefresherActor: Any = ray.remote(max_concurrency=8)(Refresher)


class RefresherClient:
    """The refresher as the trainer and the driver see it."""

    def __init__(self, actor: Any) -> None:  # noqa: ANN401 - actor handles are untyped
        self._actor = actor
        self._offers: list[Any] = []

    @classmethod
    def start(cls, config: RefresherConfig) -> RefresherClient:
        """Starts a refresher; its workers load while training begins."""
        return cls(RefresherActor.options(**LIGHT_OPTIONS, max_restarts=-1, max_task_retries=-1).remote(config))

    def offer(self, encoder: EncoderVersion) -> None:
        """Hands over an encoder without waiting."""
        self._offers.append(self._actor.offer.remote(encoder))

    def confirm_offers(self) -> None:
        """Waits until the refresher has all encoders that this client offered; before its process ends."""
        get(self._offers, timeout_seconds=ANSWER_TIMEOUT_SECONDS, what="refresher")
        self._offers.clear()

    def status(self) -> RefresherStatus:
        """Where the refresher is."""
        status: RefresherStatus = self._ask("status")
        return status

    def freshness(self) -> Freshness:
        """How fresh searches are and can become."""
        freshness: Freshness = self._ask("freshness")
        return freshness

    def wait_until_fresh(self, step: int, *, max_staleness_steps: int) -> FreshnessWait:
        """See `cluster.freshness.wait_until_fresh`."""
        return wait_until_fresh(self.freshness, step, max_staleness_steps=max_staleness_steps)

    def stop(self) -> None:
        """Ends the refresher and its workers."""
        ray.kill(self._actor)

    def _ask(self, method: str) -> Any:  # noqa: ANN401 - of any method
        return get(getattr(self._actor, method).remote(), timeout_seconds=ANSWER_TIMEOUT_SECONDS, what="refresher")


def _start_pool(config: RefresherConfig) -> EmbeddingPool:
    pool = EmbeddingPool(config.store_url, config.plan.embedding, config.loader, precision=config.plan.precision)
    pool.start()
    return pool


def _dies_again(record: RefreshRecord) -> ServiceUnavailableError:
    return ServiceUnavailableError(
        where=f"refresh from step {record.step}",
        found=f"the refresher's process died {record.num_attempts - 1} times in it",
        expected="a process that lives through it",
        action="Look for memory exhaustion in Ray's logs; training goes on with the live snapshot.",
    )


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, RealmError) else f"{type(error).__name__}: {error}"
