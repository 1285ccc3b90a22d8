"""REALM pre-training on Ray Train: candidates from the retrieval service, encoders to the refresher."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
import torch
from ray.train.torch import prepare_model

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
from realm_core.training.featurization import special_tokens
from realm_core.training.models import RealmPretrainModel, set_dropout, to_tensors
from realm_core.training.run_folder import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.refresher import RefresherClient
    from cluster.resources import ResourcePlan
    from realm_core.training.example_generator import GeneratedBatch
    from realm_core.training.featurization import FeaturizerConfig
    from realm_core.training.schedule import ScheduleConfig

BATCH_TIMEOUT_SECONDS = 600.0


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
    reader_checkpoint: str
    """BERT-family checkpoint that the knowledge-augmented encoder starts from."""
    featurizer: FeaturizerConfig
    schedule: ScheduleConfig
    batch_size: int
    seed: int
    dropout: float | None
    refresh_interval_steps: int
    max_staleness_steps: int | None


def pretrain_on_workers(
    plan: PretrainPlan, *, resources: ResourcePlan, refresher: RefresherClient, folder: Path
) -> None:
    """Trains to the last step; returns when all ranks have."""
    generators = [_start_generator(plan, rank, resources.trainer_workers) for rank in range(resources.trainer_workers)]
    loop_config = {
        "plan": plan,
        "generators": generators,
        "refresher": refresher,
        "yields_cpu": not resources.trainer_gpus,
    }
    try:
        run_on_workers(_pretrain_loop, loop_config, plan=resources, name=plan.run_name, folder=folder)
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
        special=special_tokens(get_encoder(Store(plan.store_url), plan.start_encoder_digest)),
    )
    return ExampleGeneratorActor.options(**LIGHT_OPTIONS, max_restarts=-1, max_task_retries=-1).remote(config)


def _pretrain_loop(config: dict[str, Any]) -> None:
    torch.set_num_threads(config["threads"])
    if config["yields_cpu"]:
        os.nice(TRAINER_NICENESS)
    plan: PretrainPlan = config["plan"]
    store = Store(plan.store_url)
    start = get_encoder(store, plan.start_encoder_digest)
    reader = RealmKnowledgeAugEncoder.from_bert(plan.reader_checkpoint, seed=plan.seed)
    rank = Rank(
        run=RunFolder(store, plan.run_name),
        models={"embedder": start.embedder, "encoder": reader},
        schedule=plan.schedule,
        seed=plan.seed,
        checkpoint_interval_steps=plan.refresh_interval_steps,
        precision=config["precision"],
    )
    model = RealmPretrainModel(start.embedder, reader)
    rank.resume()
    if plan.dropout is not None:
        set_dropout(model, plan.dropout)
    parallel = prepare_model(model) if rank.num_ranks > 1 else model.to(rank.device)
    generator, refresher = config["generators"][rank.index], config["refresher"]
    clock = _SnapshotClock(store)

    def hand_over() -> None:
        if rank.index == 0:
            digest = put_encoder(store, start.embedder, start.tokenizer)
            refresher.offer(
                EncoderVersion(digest=digest, step=plan.start_step + rank.step, saved_at_seconds=time.time())
            )

    if rank.step and _is_worth_a_refresh(rank, plan):
        hand_over()  # the refresh that a crash may have cut off; one that was finished is not done again
    while not rank.is_done:
        wait = _wait_until_fresh(plan, refresher, rank.step)
        _step(rank, parallel, generator, clock, wait, start_step=plan.start_step)
        if rank.checkpoint_if_due() and _is_worth_a_refresh(rank, plan):
            hand_over()
    refresher.confirm_offers()


def _wait_until_fresh(plan: PretrainPlan, refresher: RefresherClient, step: int) -> FreshnessWait:
    """What `--max-staleness-steps` asks for before a step; without it, nothing is waited for."""
    if plan.max_staleness_steps is None:
        return FreshnessWait(seconds=0.0, problem="")
    return refresher.wait_until_fresh(plan.start_step + step, max_staleness_steps=plan.max_staleness_steps)


def _is_worth_a_refresh(rank: Rank, plan: PretrainPlan) -> bool:
    """False near the end: the last checkpoint, less than an interval away, would only have to wait for that refresh.

    Where staleness has a bound, the last steps wait for just that one.
    """
    is_near_end = rank.schedule.num_steps - rank.step < plan.refresh_interval_steps
    return rank.is_done or not is_near_end or plan.max_staleness_steps is not None


def _step(
    rank: Rank,
    model: torch.nn.Module,
    generator: Any,  # noqa: ANN401 - an actor handle
    clock: _SnapshotClock,
    wait: FreshnessWait,
    *,
    start_step: int,
) -> None:
    started = time.monotonic()
    batch, num_ready = _next_batch(generator, rank.position)
    received = time.monotonic()
    rank.begin_step()
    with rank.autocast():
        loss, retrieval_utility, num_masked_tokens = model(to_tensors(batch.arrays, rank.device))
    forwarded = time.monotonic()
    norm = rank.end_step(loss, batch.next_position)
    ended = time.monotonic()
    rank.log(
        loss=float(loss),
        retrieval_utility=float(retrieval_utility),
        snapshot_id=batch.snapshot_id,
        staleness_steps=start_step + rank.step - 1 - batch.encoder_step,
        staleness_seconds=time.time() - clock.saved_at_seconds(batch.snapshot_id),
        gradient_norm=norm,
        masked_tokens=int(num_masked_tokens),
        batches_ready=num_ready,
        skipped=batch.skipped,
        wait_seconds=received - started,
        freshness_wait_seconds=wait.seconds,
        freshness_problem=wait.problem,
        forward_seconds=forwarded - received,
        backward_seconds=ended - forwarded,
    )


def _next_batch(generator: Any, position: int) -> tuple[GeneratedBatch, int]:  # noqa: ANN401
    ref = generator.batch_at.remote(position)
    batch: tuple[GeneratedBatch, int] = get(ref, timeout_seconds=BATCH_TIMEOUT_SECONDS, what="example generator")
    return batch


class _SnapshotClock:
    """When the encoder of each snapshot left training; reads a manifest once per snapshot."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._saved_at: dict[str, float] = {}

    def saved_at_seconds(self, snapshot_id: str) -> float:
        if snapshot_id not in self._saved_at:
            self._saved_at[snapshot_id] = load_snapshot(self._store, snapshot_id).encoder_saved_at_seconds
        return self._saved_at[snapshot_id]
