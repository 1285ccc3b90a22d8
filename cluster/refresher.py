"""The refresher: an actor with its own embedding workers that follows the trainer's newest checkpoint."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

from cluster.calls import get
from cluster.refresh import IndexPlan, RefreshRecord, StageProgress, refresh
from cluster.resources import LIGHT_OPTIONS
from cluster.retrieval_service import RetrievalClient
from realm_core.engines.loading import StoreEngineLoader
from realm_core.errors import RealmError
from realm_core.storage.block_store import load_corpus
from realm_core.storage.files import Store
from realm_core.training.run_folder import RunFolder

if TYPE_CHECKING:
    from cluster.embedding import EmbeddingPool
    from cluster.resources import ResourcePlan
    from realm_core.storage.encoder_pointer import EncoderVersion

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RefresherConfig:
    """What the refresher keeps fresh."""

    store_url: str
    corpus_digest: str
    run_name: str
    index: IndexPlan
    plan: ResourcePlan


@dataclass(frozen=True, slots=True)
class RefresherStatus:
    """Where the refresher is; `progress` is None while it waits for a checkpoint."""

    progress: StageProgress | None
    step: int
    pending_step: int | None
    records: list[dict[str, Any]]

    @property
    def is_idle(self) -> bool:
        """True when there is nothing to refresh from."""
        return self.progress is None and self.pending_step is None


class NewestFirst:
    """A mailbox of one: a newer encoder replaces the one that waits, and the steps passed over are remembered."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting: EncoderVersion | None = None
        self._skipped: list[int] = []
        self._newest_step = -1

    def offer(self, encoder: EncoderVersion) -> bool:
        """Leaves an encoder; False when one of that step or a later one was left before (a replayed step)."""
        with self._condition:
            if encoder.step <= self._newest_step:
                return False
            if self._waiting is not None:
                self._skipped.append(self._waiting.step)
            self._waiting, self._newest_step = encoder, encoder.step
            self._condition.notify()
            return True

    def take(self) -> tuple[EncoderVersion, list[int]]:
        """Waits for an encoder; returns it with the steps that it passed over."""
        with self._condition:
            while self._waiting is None:
                self._condition.wait()
            encoder, skipped = self._waiting, self._skipped
            self._waiting, self._skipped = None, []
            return encoder, skipped

    def waiting_step(self) -> int | None:
        """Step of the encoder that waits."""
        with self._condition:
            return self._waiting.step if self._waiting else None


class Refresher:
    """Takes checkpoints to live snapshots, one at a time; a refresh that fails leaves the live snapshot alone."""

    def __init__(self, config: RefresherConfig) -> None:
        self._config = config
        self._store = Store(config.store_url)
        self._run = RunFolder(self._store, config.run_name)
        self._mailbox = NewestFirst()
        self._progress: StageProgress | None = None
        self._step = 0
        self._pool = _start_pool(config)
        self._service = RetrievalClient.connect()
        threading.Thread(target=self._follow, name="refresher", daemon=True).start()

    def offer(self, encoder: EncoderVersion) -> bool:
        """Hands over an encoder and returns at once; see `NewestFirst.offer`."""
        return self._mailbox.offer(encoder)

    def status(self) -> RefresherStatus:
        """Where the refresher is, and what became of each refresh."""
        pending = self._mailbox.waiting_step()
        return RefresherStatus(self._progress, self._step, pending, self._run.read_refreshes())

    def _follow(self) -> None:
        while True:
            encoder, skipped = self._mailbox.take()
            if encoder.step <= self._service.live_snapshot().encoder_step:
                continue  # a step that was refreshed before the trainer went back to its checkpoint
            self._refresh(encoder, skipped)

    def _refresh(self, encoder: EncoderVersion, skipped: list[int]) -> None:
        record = RefreshRecord(step=encoder.step, started_at_seconds=time.time(), skipped_steps=skipped)
        self._step = encoder.step
        self._watch(
            StageProgress(stage="embed", done=0, total=load_corpus(self._store, self._config.corpus_digest).num_blocks)
        )
        try:
            refresh(
                self._store,
                self._pool,
                self._config.corpus_digest,
                encoder,
                self._config.index,
                swap=self._service.swap,
                record=record,
                progress=self._watch,
            )
            record.status = "live"
        except Exception as error:  # noqa: BLE001 - training goes on with the live snapshot; the record says why
            record.status, record.error = "failed", _describe(error)
            logger.error("Refresh from step %d failed, training goes on: %s", encoder.step, record.error)
        self._run.write_refresh(encoder.step, record.to_json())
        self._progress = None

    def _watch(self, progress: StageProgress) -> None:
        self._progress = progress


RefresherActor: Any = ray.remote(max_concurrency=4)(Refresher)


class RefresherClient:
    """The refresher as the trainer and the driver see it."""

    def __init__(self, actor: Any) -> None:  # noqa: ANN401 - actor handles are untyped
        self._actor = actor

    @classmethod
    def start(cls, config: RefresherConfig) -> RefresherClient:
        """Starts a refresher; its workers load while training begins."""
        return cls(RefresherActor.options(**LIGHT_OPTIONS, max_restarts=-1, max_task_retries=-1).remote(config))

    def offer(self, encoder: EncoderVersion) -> None:
        """Hands over an encoder without waiting."""
        self._actor.offer.remote(encoder)

    def status(self) -> RefresherStatus:
        """Where the refresher is."""
        status: RefresherStatus = get(self._actor.status.remote(), timeout_seconds=300.0, what="refresher")
        return status

    def stop(self) -> None:
        """Ends the refresher and its workers."""
        ray.kill(self._actor)


def _start_pool(config: RefresherConfig) -> EmbeddingPool:
    from cluster.embedding import EmbeddingPool

    plan = config.plan.embedding
    loader = StoreEngineLoader(device=plan.device, threads=plan.threads)
    pool = EmbeddingPool(config.store_url, plan, loader, precision=config.plan.precision)
    pool.start()
    return pool


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, RealmError) else f"{type(error).__name__}: {error}"
