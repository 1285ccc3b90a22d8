"""Where all rows start: the small BERT of `ablation_reader`, and its inverse cloze warm-up.

A sentence-embedding model such as MiniLM is a trained retriever already, and would hide what REALM adds; the paper
starts from BERT, which can read and is no retriever.

Shapes: B examples.
"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

import torch

from benchmarks.ablation_loop import Trainer
from benchmarks.ablation_reader import STEPS_BETWEEN_LINES
from realm_core.modeling.embedder import RealmEmbedder
from realm_core.training.example_generator import DataOrder
from realm_core.training.featurization import FeaturizerConfig
from realm_core.training.inverse_cloze import InverseClozeExample, inverse_cloze_batch, inverse_cloze_example
from realm_core.training.losses import inverse_cloze_loss
from realm_core.training.models import InverseClozeModel, to_tensors

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.ablation_corpus import BlocksInMemory
    from benchmarks.ablation_presets import Preset
    from realm_core.modeling.knowledge_aug_encoder import RealmKnowledgeAugEncoder
    from realm_core.training.featurization import SpecialTokens

ICT_COLUMNS = ("title_token_ids", "body_token_ids", "sentence_starts")
WARM_UP_SEED = 2000
"""Its data orders are no row's."""


def embedder_of(encoder: RealmKnowledgeAugEncoder, *, seed: int) -> RealmEmbedder:
    """An embedder on the masked language model's encoder, with a new projection and the pooler of `from_bert`."""
    torch.manual_seed(seed)
    embedder = RealmEmbedder(encoder.config)
    embedder.realm.load_state_dict(encoder.realm.state_dict())
    torch.nn.init.eye_(embedder.realm.pooler.dense.weight)
    torch.nn.init.zeros_(embedder.realm.pooler.dense.bias)
    return embedder


def warm_up(
    embedder: RealmEmbedder,
    blocks: BlocksInMemory,
    preset: Preset,
    special: SpecialTokens,
    *,
    seed: int,
    device: str,
    say: Callable[[str], None],
) -> list[float]:
    """The inverse cloze task, in place; the accuracy of each step over queries that were removed from their block."""
    model = InverseClozeModel(embedder)
    trainer = Trainer([model], num_steps=preset.ict_steps, learning_rate=preset.ict_learning_rate, device=device)
    order = DataOrder(num_blocks=len(blocks), seed=WARM_UP_SEED + seed, rank=0, num_ranks=1)
    lengths = FeaturizerConfig(
        query_length_tokens=preset.query_length_tokens, block_length_tokens=preset.block_length_tokens
    )
    accuracies, position = [], 0
    for step in range(preset.ict_steps):
        examples: list[InverseClozeExample] = []
        while len(examples) < preset.ict_batch_size:
            block_id, rng = order.block_at(position)
            position += 1
            example = inverse_cloze_example(**blocks.take([block_id], ICT_COLUMNS)[0], rng=rng)
            examples += [example] if isinstance(example, InverseClozeExample) else []
        batch = to_tensors(inverse_cloze_batch(examples, config=lengths, special=special), device)
        with trainer.autocast():
            found = inverse_cloze_loss(*model(batch), batch["is_removed_B"])
        trainer.update(found.loss)
        accuracies.append(float(found.removed_accuracy))
        if (step + 1) % STEPS_BETWEEN_LINES == 0:
            say(f"step {step + 1}/{preset.ict_steps}  accuracy {fmean(accuracies[-STEPS_BETWEEN_LINES:]):.3f}")
    return accuracies
