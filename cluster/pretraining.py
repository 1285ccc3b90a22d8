"""REALM pre-training on Ray Train: candidates from the retrieval service, encoders to the refresher."""

from __future__ import annotations

import math
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import ray
import torch

from cluster.calls import get
from cluster.example_generator import ExampleGeneratorActor, GeneratorConfig
from cluster.freshness import FreshnessWait
from cluster.resources import LIGHT_OPTIONS, TRAINER_NICENESS
from cluster.trainer import Rank, run_on_workers
from realm_core.modeling.knowledge_aug_encoder import RealmKnowledgeAugEncoder
from realm_core.storage.encoder_pointer import EncoderVersion
from realm_core.storage.encoder_store import get_encoder, put_encoder
from realm_core.storage.files import Store
from realm_core.storage.snapshots import load_snapshot
from realm_core.training.accumulation import accumulate_gradients
from realm_core.training.featurization import special_tokens
from realm_core.training.micro_batches import micro_batches
from realm_core.training.models import RealmPretrainModel, recompute_layers, set_dropout, to_tensors
from realm_core.training.ranks import max_over_ranks, sum_over_ranks
from realm_core.training.run_folder import RunFolder
from realm_core.training.step_counts import StepCounts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.refresher import RefresherClient
    from cluster.resources import ResourcePlan
    from realm_core.training.example_generator import GeneratedBatch
    from realm_core.training.featurization import FeaturizerConfig
    from realm_core.training.masked_queries import Masking
    from realm_core.training.schedule import ScheduleConfig

BATCH_TIMEOUT_SECONDS = 900.0
"""Longer than a generator waits for the service, whose error says more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainPlan:
    """All that a rank needs to know."""

    store_url: str
    run_name: str
    corpus_digest: str
    start_step: int
    """Encoder step of the snapshot that training starts on: the steps of its encoders count on from there."""
    start_encoder_digest: str
    """Encoder of the snapshot that training starts on: the retriever goes on from there."""
    separate_embedders: bool
    """Whether queries get an embedder of their own, a copy at first; they keep the one that the encoder has."""
    reader_checkpoint: str
    """BERT-family checkpoint that the knowledge-augmented encoder starts from."""
    featurizer: FeaturizerConfig
    masking: Masking
    schedule: ScheduleConfig
    batch_size: int
    seed: int
    dropout: float | None
    refresh_interval_steps: int
    checkpoint_interval_steps: int
    accumulation_steps: int
    """Micro-batches that a rank's batch is divided into."""
    recompute_layers: bool
    """Gradient checkpointing."""
    max_staleness_steps: int | None


class BatchSource(Protocol):
    """Where a rank's batches come from."""

    def batch_at(self, position: int) -> tuple[GeneratedBatch, int]:
        """The batch that begins at a position of the rank's data order, and how many were ready."""


class GeneratedBatches:
    """Batches of an example generator; sent to the rank that asks it."""

    def __init__(self, generator: Any) -> None:  # noqa: ANN401 - an actor handle
        self._generator = generator

    def batch_at(self, position: int) -> tuple[GeneratedBatch, int]:
        """See `BatchSource.batch_at`; the batch is made with the live snapshot."""
        ref = self._generator.batch_at.remote(position)
        batch: tuple[GeneratedBatch, int] = get(ref, timeout_seconds=BATCH_TIMEOUT_SECONDS, what="example generator")
        return batch


def pretrain_on_workers(
    plan: PretrainPlan, *, resources: ResourcePlan, refresher: RefresherClient, folder: Path
) -> None:
    """Trains to the last step; returns when all ranks have."""
    with example_generators(plan, resources.trainer_workers) as sources:
        loop_config = {
            "plan": plan,
            "sources": sources,
            "refresher": refresher,
            "yields_cpu": not resources.trainer_gpus,
        }
        run_on_workers(pretrain_loop, loop_config, plan=resources, name=plan.run_name, folder=folder)


@contextmanager
def example_generators(plan: PretrainPlan, num_ranks: int) -> Iterator[list[GeneratedBatches]]:
    """One for each rank, while the context is open."""
    generators = [_start_generator(plan, rank, num_ranks) for rank in range(num_ranks)]
    try:
        yield [GeneratedBatches(generator) for generator in generators]
    finally:
        for generator in generators:
            ray.kill(generator)


def _start_generator(plan: PretrainPlan, rank: int, num_ranks: int) -> Any:  # noqa: ANN401 - an actor handle
    config = GeneratorConfig(
        store_url=plan.store_url,
        corpus_digest=plan.corpus_digest,
        seed=plan.seed,
        rank=rank,
        num_ranks=num_ranks,
        batch_size=plan.batch_size,
        featurizer=plan.featurizer,
        masking=plan.masking,
        special=special_tokens(get_encoder(Store(plan.store_url), plan.start_encoder_digest)),
    )
    return ExampleGeneratorActor.options(**LIGHT_OPTIONS, max_restarts=-1, max_task_retries=-1).remote(config)


def pretrain_loop(config: dict[str, Any]) -> None:
    """What each rank does, for `run_on_workers`.

    Its configuration has the `plan`, a `BatchSource` for each rank as `sources`, the `refresher` (None where nothing is
    to be refreshed), and whether the rank `yields_cpu` to the refresh.
    """
    torch.set_num_threads(config["threads"])
    if config["yields_cpu"]:
        os.nice(TRAINER_NICENESS)
    plan: PretrainPlan = config["plan"]
    store = Store(plan.store_url)
    start = get_encoder(store, plan.start_encoder_digest)
    if plan.separate_embedders:
        start = start.separated()
    reader = RealmKnowledgeAugEncoder.from_bert(plan.reader_checkpoint, seed=plan.seed)
    rank = Rank(
        run=RunFolder(store, plan.run_name),
        models={**start.models, "encoder": reader},
        schedule=plan.schedule,
        seed=plan.seed,
        checkpoint_interval_steps=plan.checkpoint_interval_steps,
        precision=config["precision"],
    )
    model = RealmPretrainModel(
        start.embedder,
        reader,
        query_embedder=start.query_embedder,
        has_null_document=plan.featurizer.has_null_document,
    )
    rank.resume()
    if plan.dropout is not None:
        set_dropout(model, plan.dropout)
    if plan.recompute_layers:
        recompute_layers(model)
    parallel = rank.parallel(model)
    source, refresher = config["sources"][rank.index], config["refresher"]
    clock = _SnapshotClock(store)

    def hand_over() -> None:
        if rank.index == 0 and refresher is not None:
            _offer(refresher, put_encoder(store, start), plan, rank)

    if rank.step and _is_refresh_due(rank, plan):
        hand_over()  # the refresh that a crash may have cut off; one that was finished is not done again
    while not rank.is_done:
        wait = _wait_until_fresh(plan, refresher, rank.step)
        _step(rank, parallel, source, clock, wait, plan)
        is_refresh_due = _is_refresh_due(rank, plan)
        rank.checkpoint_if_due(is_due=is_refresh_due)  # first: a rank that goes back to it never lags behind a snapshot
        if is_refresh_due:
            hand_over()


def _offer(refresher: RefresherClient, digest: str, plan: PretrainPlan, rank: Rank) -> None:
    """Without waiting, but for the last one: this process ends then."""
    refresher.offer(EncoderVersion(digest=digest, step=plan.start_step + rank.step, saved_at_seconds=time.time()))
    if rank.is_done:
        refresher.confirm_offers()


def _wait_until_fresh(plan: PretrainPlan, refresher: RefresherClient, step: int) -> FreshnessWait:
    """What `--max-staleness-steps` asks for before a step; without it, nothing is waited for."""
    if plan.max_staleness_steps is None:
        return FreshnessWait(seconds=0.0, problem="")
    return refresher.wait_until_fresh(plan.start_step + step, max_staleness_steps=plan.max_staleness_steps)


def _is_refresh_due(rank: Rank, plan: PretrainPlan) -> bool:
    """Every interval and at the end; but not less than an interval before it, which would only delay the last one.

    Where staleness has a bound, the last steps wait for just that one.
    """
    interval_steps = plan.refresh_interval_steps
    is_near_end = rank.schedule.num_steps - rank.step < interval_steps and plan.max_staleness_steps is None
    return rank.is_done or (rank.step % interval_steps == 0 and not is_near_end)


def _step(
    rank: Rank,
    model: torch.nn.Module,
    source: BatchSource,
    clock: _SnapshotClock,
    wait: FreshnessWait,
    plan: PretrainPlan,
) -> None:
    started = time.monotonic()
    batch, num_ready = source.batch_at(rank.position)
    received = time.monotonic()
    rank.begin_step()
    pieces = micro_batches(to_tensors(batch.arrays, rank.device), plan.accumulation_steps)
    step = accumulate_gradients(model, pieces, autocast=rank.autocast)
    norm = rank.update(step.loss, batch.next_position)
    ended = time.monotonic()
    longest_wait, minus_fewest_ready = max_over_ranks([received - started, -num_ready], rank.device)
    counts = [int(count) for count in sum_over_ranks(StepCounts.of_batch(batch).to_vector(), rank.device)]
    rank.log(
        loss=step.loss,
        retrieval_utility=None if math.isnan(step.retrieval_utility) else step.retrieval_utility,
        snapshot_id=batch.snapshot_id,
        staleness_steps=plan.start_step + rank.step - 1 - batch.encoder_step,
        staleness_seconds=time.time() - clock.saved_at_seconds(batch.snapshot_id),
        gradient_norm=norm,
        masked_tokens=step.num_masked_tokens,
        batches_ready=-int(minus_fewest_ready),
        **StepCounts.from_vector(counts).to_json(),
        wait_seconds=longest_wait,  # all ranks wait for the one that waits longest
        freshness_wait_seconds=wait.seconds,
        freshness_problem=wait.problem,
        forward_seconds=step.forward_seconds,
        backward_seconds=max(0.0, ended - started - longest_wait - step.forward_seconds),
    )


class _SnapshotClock:
    """When the encoder of each snapshot left training; reads a manifest once per snapshot."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._saved_at: dict[str, float] = {}

    def saved_at_seconds(self, snapshot_id: str) -> float:
        if snapshot_id not in self._saved_at:
            self._saved_at[snapshot_id] = load_snapshot(self._store, snapshot_id).encoder_saved_at_seconds
        return self._saved_at[snapshot_id]
