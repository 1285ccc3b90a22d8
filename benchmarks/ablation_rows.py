"""One row of the ablation: REALM pre-training in this process, with a refresh every so many steps."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from benchmarks.ablation_index import MemorySnapshot
from benchmarks.ablation_loop import Trainer
from realm_core.training.example_generator import DataOrder, ExampleGenerator
from realm_core.training.featurization import FeaturizerConfig
from realm_core.training.models import RealmPretrainModel, to_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.ablation_corpus import AskedQuestion, BlocksInMemory
    from benchmarks.ablation_presets import Preset, Row
    from realm_core.modeling.embedder import RealmEmbedder
    from realm_core.modeling.knowledge_aug_encoder import RealmKnowledgeAugEncoder
    from realm_core.training.featurization import SpecialTokens


@dataclass(frozen=True, slots=True)
class Corpus:
    """What all rows share."""

    blocks: BlocksInMemory
    questions: Sequence[AskedQuestion]
    special: SpecialTokens
    device: str


def pretrain_row(
    row: Row,
    corpus: Corpus,
    preset: Preset,
    embedder: RealmEmbedder,
    encoder: RealmKnowledgeAugEncoder,
    *,
    seed: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Trains both models in place; recall@5 over steps, losses and utilities as plain JSON values.

    Recall is of the encoder at that step over an index of its own; only every `stale_factor`-th of these indexes is
    what training goes on with.
    """
    started = time.monotonic()
    model = RealmPretrainModel(embedder, encoder, has_null_document=row.has_null_document)
    trainer = Trainer(
        [model], num_steps=preset.realm_steps, learning_rate=preset.realm_learning_rate, device=corpus.device
    )
    live = _snapshot(corpus, embedder, 0)
    curve = [(0, live.recall_at_5(corpus.blocks, corpus.questions))]
    losses: list[float] = []
    utilities: list[float] = []
    position = 0
    for done in range(1, preset.realm_steps + 1):
        batch = _generator(row, corpus, preset, live, seed).batch_at(position)
        position = batch.next_position
        with trainer.autocast():
            loss, utility, _ = model(to_tensors(batch.arrays, corpus.device))
        losses.append(trainer.update(loss))
        utilities.append(float(utility))
        if done % preset.refresh_interval_steps == 0 or done == preset.realm_steps:
            fresh = _snapshot(corpus, embedder, done)
            curve.append((done, fresh.recall_at_5(corpus.blocks, corpus.questions)))
            if done % (preset.refresh_interval_steps * row.stale_factor) == 0:
                live = fresh
            recent = slice(-preset.refresh_interval_steps, None)
            gain = f"  utility {fmean(utilities[recent]):+.4f}" if row.has_null_document else ""
            so_far = f"loss {fmean(losses[recent]):.3f}{gain}  {time.monotonic() - started:.0f} s"
            say(f"step {done}/{preset.realm_steps}  recall@5 {curve[-1][1]:.3f}  {so_far}")
    return {
        "recall_at_5": curve[-1][1],
        "curve": curve,
        "losses": losses,
        "retrieval_utilities": utilities if row.has_null_document else None,
        "seconds": time.monotonic() - started,
    }


def _snapshot(corpus: Corpus, embedder: RealmEmbedder, step: int) -> MemorySnapshot:
    return MemorySnapshot(corpus.blocks, embedder, corpus.special, step=step, device=corpus.device)


def _generator(row: Row, corpus: Corpus, preset: Preset, live: MemorySnapshot, seed: int) -> ExampleGenerator:
    return ExampleGenerator(
        records=corpus.blocks,
        searcher=live,
        order=DataOrder(num_blocks=len(corpus.blocks), seed=seed, rank=0, num_ranks=1),
        batch_size=preset.realm_batch_size,
        featurizer=FeaturizerConfig(
            query_length_tokens=preset.query_length_tokens,
            block_length_tokens=preset.block_length_tokens,
            num_candidates=preset.num_candidates,
            has_null_document=row.has_null_document,
        ),
        special=corpus.special,
        masking=row.masking,
    )
