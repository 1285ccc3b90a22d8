"""The inverse cloze task on Ray Train: trains the projection, and the embedder under it, before pre-training."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from ray.train.torch import prepare_model
from torch.distributed.nn.functional import all_gather

from cluster.trainer import Rank, run_on_workers
from realm_core.storage.block_store import BlockRecords, load_corpus
from realm_core.storage.encoder_store import get_encoder, put_encoder
from realm_core.storage.files import Store
from realm_core.training.example_generator import DataOrder
from realm_core.training.featurization import FeaturizerConfig, special_tokens
from realm_core.training.inverse_cloze import InverseClozeExample, inverse_cloze_batch, inverse_cloze_example
from realm_core.training.losses import inverse_cloze_loss
from realm_core.training.masking import SkipReason
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
    schedule: ScheduleConfig
    batch_size: int
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
    rank = Rank(
        run=RunFolder(store, plan.run_name),
        models={"embedder": start.embedder},
        schedule=plan.schedule,
        seed=plan.seed,
        checkpoint_interval_steps=plan.checkpoint_interval_steps,
        precision=config["precision"],
    )
    model = InverseClozeModel(start.embedder)
    rank.resume()
    if plan.dropout is not None:
        set_dropout(model, plan.dropout)
    parallel = prepare_model(model) if rank.num_ranks > 1 else model.to(rank.device)
    source = _ExampleSource(store, plan, rank, start)
    while not rank.is_done:
        _step(rank, parallel, source)
        rank.checkpoint_if_due()
    if rank.index == 0:
        digest = put_encoder(store, start.embedder, start.tokenizer)
        rank.run.write_document("result", {"encoder": digest, "saved_at_seconds": time.time()})


class _ExampleSource:
    """Reads a rank's blocks in its order and makes inverse cloze batches of them."""

    def __init__(self, store: Store, plan: WarmupPlan, rank: Rank, start: LoadedEncoder) -> None:
        self._records = BlockRecords(store, load_corpus(store, plan.corpus_digest))
        self._order = DataOrder(
            num_blocks=len(self._records), seed=plan.seed, rank=rank.index, num_ranks=rank.num_ranks
        )
        self._special = special_tokens(start)
        self._batch_size = plan.batch_size
        self._device = rank.device

    def batch_at(self, position: int) -> tuple[dict[str, torch.Tensor], int]:
        """The batch whose first block is the first usable one from `position` on, and the position after it."""
        examples: list[InverseClozeExample] = []
        while len(examples) < self._batch_size:
            block_id, rng = self._order.block_at(position)
            position += 1
            row = self._records.take([block_id], COLUMNS)[0]
            example = inverse_cloze_example(**row, rng=rng)
            if not isinstance(example, SkipReason):
                examples.append(example)
        batch = inverse_cloze_batch(examples, config=FeaturizerConfig(), special=self._special)
        return to_tensors(batch, self._device), position


def _step(rank: Rank, model: torch.nn.Module, source: _ExampleSource) -> None:
    started = time.monotonic()
    batch, next_position = source.batch_at(rank.position)
    rank.begin_step()
    with rank.autocast():
        query_BD, block_BD = model(batch)
    block_RD = torch.cat(all_gather(block_BD)) if rank.num_ranks > 1 else block_BD
    loss = inverse_cloze_loss(query_BD, block_RD, batch["is_removed_B"], first_own_row=rank.index * len(query_BD))
    norm = rank.end_step(loss.loss, next_position)
    rank.log(
        loss=float(loss.loss),
        removed_accuracy=float(loss.removed_accuracy),
        kept_accuracy=float(loss.kept_accuracy),
        gradient_norm=norm,
        step_seconds=time.monotonic() - started,
    )
