"""The inverse cloze task on Ray Train: trains the projection, and the embedder under it, before pre-training."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from cluster.trainer import Rank, run_on_workers
from realm_core.errors import TrainingError
from realm_core.storage.block_store import BlockRecords, load_corpus
from realm_core.storage.encoder_store import get_encoder, put_encoder
from realm_core.storage.files import Store
from realm_core.training.cached_gradients import inverse_cloze_gradients
from realm_core.training.example_generator import DataOrder
from realm_core.training.featurization import FeaturizerConfig, special_tokens
from realm_core.training.inverse_cloze import InverseClozeExample, inverse_cloze_batch, inverse_cloze_example
from realm_core.training.masking import SkipReason
from realm_core.training.micro_batches import chunks
from realm_core.training.models import InverseClozeModel, set_dropout, to_tensors
from realm_core.training.run_folder import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.resources import ResourcePlan
    from realm_core.modeling.checkpoints import LoadedEncoder
    from realm_core.training.schedule import ScheduleConfig

COLUMNS = ("title_token_ids", "body_token_ids", "sentence_starts")


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmupPlan:
    """All that a rank needs to know."""

    store_url: str
    run_name: str
    corpus_digest: str
    start_encoder_digest: str
    separate_embedders: bool
    schedule: ScheduleConfig
    batch_size: int
    chunk_size: int | None
    seed: int
    dropout: float | None
    checkpoint_interval_steps: int


def warm_up_on_workers(plan: WarmupPlan, *, resources: ResourcePlan, folder: Path) -> None:
    """Trains to the last step; the run's result then names the encoder."""
    run_on_workers(_warmup_loop, {"plan": plan}, plan=resources, name=plan.run_name, folder=folder)


def _warmup_loop(config: dict[str, Any]) -> None:
    torch.set_num_threads(config["threads"])
    plan: WarmupPlan = config["plan"]
    store = Store(plan.store_url)
    start = get_encoder(store, plan.start_encoder_digest)
    if plan.separate_embedders:
        start = start.separated()
    rank = Rank(
        run=RunFolder(store, plan.run_name),
        models=dict(start.models),
        schedule=plan.schedule,
        seed=plan.seed,
        checkpoint_interval_steps=plan.checkpoint_interval_steps,
        precision=config["precision"],
    )
    model = InverseClozeModel(start.embedder, start.query_embedder)
    rank.resume()
    if plan.dropout is not None:
        set_dropout(model, plan.dropout)
    parallel = rank.parallel(model)
    source = _ExampleSource(store, plan, rank, start)
    while not rank.is_done:
        _step(rank, parallel, source, plan.chunk_size)
        rank.checkpoint_if_due()
    if rank.index == 0:
        digest = put_encoder(store, start)
        rank.run.write_document("result", {"encoder": digest, "saved_at_seconds": time.time()})


class _ExampleSource:
    """Reads a rank's blocks in its order and makes inverse cloze batches of them."""

    def __init__(self, store: Store, plan: WarmupPlan, rank: Rank, start: LoadedEncoder) -> None:
        corpus = load_corpus(store, plan.corpus_digest)
        self._records = BlockRecords(store, corpus)
        self._order = DataOrder(
            num_blocks=len(self._records), seed=plan.seed, rank=rank.index, num_ranks=rank.num_ranks
        )
        self._featurizer = FeaturizerConfig(block_length_tokens=corpus.max_block_tokens)
        self._special = special_tokens(start)
        self._batch_size = plan.batch_size
        self._device = rank.device

    def batch_at(self, position: int) -> tuple[dict[str, torch.Tensor], int]:
        """The batch whose first block is the first usable one from `position` on, and the position after it.

        Raises:
            TrainingError: as many blocks as the corpus has were passed over.
        """
        examples: list[InverseClozeExample] = []
        start = position
        while len(examples) < self._batch_size:
            if position - start > len(self._records) + self._batch_size:
                raise _nothing_to_learn(len(self._records), len(examples), self._batch_size)
            block_id, rng = self._order.block_at(position)
            position += 1
            row = self._records.take([block_id], COLUMNS)[0]
            example = inverse_cloze_example(**row, rng=rng)
            if not isinstance(example, SkipReason):
                examples.append(example)
        batch = inverse_cloze_batch(examples, config=self._featurizer, special=self._special)
        return to_tensors(batch, self._device), position


def _nothing_to_learn(num_blocks: int, num_found: int, batch_size: int) -> TrainingError:
    return TrainingError(
        where="inverse cloze examples",
        found=f"{num_found} blocks of two or more sentences among {num_blocks}",
        expected=f"{batch_size}, the batch of a rank",
        action="Ingest a larger corpus, one of longer texts, or lower --batch-size.",
    )


def _step(rank: Rank, model: torch.nn.Module, source: _ExampleSource, chunk_size: int | None) -> None:
    started = time.monotonic()
    batch, next_position = source.batch_at(rank.position)
    received = time.monotonic()
    rank.begin_step()
    step = inverse_cloze_gradients(model, chunks(batch, chunk_size), autocast=rank.autocast)
    norm = rank.update(step.loss, next_position)
    ended = time.monotonic()
    rank.log(
        loss=step.loss,
        removed_accuracy=_or_none(step.removed_accuracy),
        kept_accuracy=_or_none(step.kept_accuracy),
        gradient_norm=norm,
        wait_seconds=received - started,
        step_seconds=ended - started,
    )


def _or_none(accuracy: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(accuracy) else accuracy
