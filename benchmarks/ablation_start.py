"""Where all rows start: a reader trained here by masked language modeling alone, a retriever by its warm-up alone.

A sentence-embedding model such as MiniLM is a trained retriever already, and would hide what REALM adds; the paper
starts from BERT, which knows words and is no retriever. Here

- the reader is a small BERT. Its word vectors are made from counts, and it is trained by masked language modeling on
  the corpus's own text, because what REALM teaches the retriever is what the reader makes of each candidate: one that
  knows no words yet predicts the same with all of them. Its input is BERT's pair of segments, a sentence and a
  paragraph, with BERT's 15 % of masks;
- the retriever is the same small BERT from random weights, a seed's own, and the inverse cloze task is all that it has
  seen. Begun with the reader's word vectors, whose means find 64 % of the answers within five blocks, it would be a
  retriever before any training.

Shapes: B examples, L tokens, M masked positions.
"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.ablation_loop import Trainer
from benchmarks.ablation_words import word_vectors
from realm_core.modeling.configuration import RealmConfig
from realm_core.modeling.embedder import RealmEmbedder
from realm_core.modeling.knowledge_aug_encoder import RealmKnowledgeAugEncoder
from realm_core.training.example_generator import DataOrder
from realm_core.training.featurization import FeaturizerConfig, TokenArrays, joint_arrays
from realm_core.training.inverse_cloze import InverseClozeExample, inverse_cloze_batch, inverse_cloze_example
from realm_core.training.losses import inverse_cloze_loss
from realm_core.training.masked_queries import MASK_RATE
from realm_core.training.models import InverseClozeModel, to_tensors

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.ablation_corpus import BlocksInMemory
    from benchmarks.ablation_presets import Preset
    from realm_core.training.featurization import SpecialTokens

HEAD_SIZE = 64
"""BERT's."""
BERT_INITIALIZER_RANGE, BERT_HIDDEN_SIZE = 0.02, 768
STEPS_BETWEEN_LINES = 100
PAIRED_WITH = (0.5, 0.3, 0.1, 0.1)
"""Shares of the kinds of paragraphs that a sentence is read with, as candidates will be: mostly of use, not always."""
NULL_KIND = 3
ICT_COLUMNS = ("title_token_ids", "body_token_ids", "sentence_starts")
LATER_SEED = 1000
"""Data orders of the two stages differ from those of the rows."""


def new_config(preset: Preset, vocab_size: int, pad_id: int) -> RealmConfig:
    """BERT's proportions at the preset's size; without dropout, as each text is seen a few times only.

    BERT draws weights with a standard deviation of 0.02 at a width of 768; a narrower one needs larger ones for layers
    to add as much to what they are given.
    """
    return RealmConfig(
        vocab_size=vocab_size,
        hidden_size=preset.hidden_size,
        num_hidden_layers=preset.num_layers,
        num_attention_heads=max(2, preset.hidden_size // HEAD_SIZE),
        intermediate_size=4 * preset.hidden_size,
        initializer_range=BERT_INITIALIZER_RANGE * (BERT_HIDDEN_SIZE / preset.hidden_size) ** 0.5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=pad_id,
    )


def train_masked_language_model(
    encoder: RealmKnowledgeAugEncoder,
    blocks: BlocksInMemory,
    preset: Preset,
    special: SpecialTokens,
    *,
    device: str,
    say: Callable[[str], None],
) -> list[float]:
    """Trains in place; the loss of each step, in nats per masked token.

    Word vectors start from counts, and the vocabulary projection's bias from the words' log frequencies: from random
    ones the loss was still that of the frequencies alone after 500 steps.
    """
    _set_words_from_counts(encoder, blocks)
    trainer = Trainer([encoder], num_steps=preset.mlm_steps, learning_rate=preset.mlm_learning_rate, device=device)
    order = DataOrder(num_blocks=len(blocks), seed=LATER_SEED, rank=0, num_ranks=1)
    losses = []
    for step in range(preset.mlm_steps):
        first = step * preset.mlm_batch_size
        drawn = [order.block_at(position) for position in range(first, first + preset.mlm_batch_size)]
        rng = np.random.default_rng([LATER_SEED, step])
        arrays = _segment_pairs(blocks, [block_id for block_id, _ in drawn], rng, preset, special)
        with trainer.autocast():
            loss = _mlm_loss(encoder, arrays, rng, special, device)
        losses.append(trainer.update(loss))
        if (step + 1) % STEPS_BETWEEN_LINES == 0:
            say(f"step {step + 1}/{preset.mlm_steps}  loss {fmean(losses[-STEPS_BETWEEN_LINES:]):.3f}")
    return losses


def _set_words_from_counts(encoder: RealmKnowledgeAugEncoder, blocks: BlocksInMemory) -> None:
    vocab_size, hidden_size = encoder.config.vocab_size, encoder.config.hidden_size
    counts_V = np.bincount(np.concatenate(blocks.body_ids), minlength=vocab_size) + 1.0
    vectors_VH, is_known_V = word_vectors(blocks, vocab_size=vocab_size, hidden_size=hidden_size)
    with torch.no_grad():
        encoder.get_input_embeddings().weight[is_known_V] = vectors_VH[is_known_V]
        encoder.cls.predictions.bias.copy_(torch.from_numpy(np.log(counts_V / counts_V.sum())))


def _segment_pairs(
    blocks: BlocksInMemory, block_ids: list[int], rng: np.random.Generator, preset: Preset, special: SpecialTokens
) -> TokenArrays:
    """Sentences, each with what is left of its own block, the article's next block, any block, or the null document."""
    queries, pairs = [], []
    for block_id in block_ids:
        block = blocks.blocks[block_id]
        bounds = [*block.sentence_starts, len(block.body_token_ids)]
        sentence = int(rng.integers(len(block.sentence_starts)))
        start, stop = bounds[sentence], bounds[sentence + 1]
        body = block.body_token_ids
        queries.append(body[start:stop])
        kind = rng.choice(len(PAIRED_WITH), p=PAIRED_WITH)
        if kind == 0:
            pairs.append((block.title_token_ids, body[:start] + body[stop:]))
        elif kind < NULL_KIND:
            other = blocks.blocks[blocks.neighbour(block_id) if kind == 1 else int(rng.integers(len(blocks)))]
            pairs.append((other.title_token_ids, other.body_token_ids))
        else:
            pairs.append(((), ()))
    lengths = FeaturizerConfig(
        query_length_tokens=preset.query_length_tokens, block_length_tokens=preset.block_length_tokens
    )
    return joint_arrays(queries, pairs, config=lengths, special=special)


def _mlm_loss(
    encoder: RealmKnowledgeAugEncoder,
    arrays: TokenArrays,
    rng: np.random.Generator,
    special: SpecialTokens,
    device: str,
) -> torch.Tensor:
    """Cross entropy of BERT's 15 %: all of them written as `[MASK]`."""
    is_marker_BL = np.isin(arrays.ids, [special.cls_id, special.sep_id])
    is_masked_BL = arrays.is_token & ~is_marker_BL & (rng.random(arrays.ids.shape) < MASK_RATE)
    num_masks = max(1, int(is_masked_BL.sum(axis=1).max()))
    positions_BM = np.argsort(~is_masked_BL, axis=1, kind="stable")[:, :num_masks]
    counts_BM = torch.from_numpy(np.take_along_axis(is_masked_BL, positions_BM, axis=1)).to(device)
    ids_BL = torch.from_numpy(np.where(is_masked_BL, special.mask_id, arrays.ids).astype(np.int64))
    inputs = [ids_BL, torch.from_numpy(arrays.is_token), torch.from_numpy(arrays.token_types.astype(np.int64))]
    targets_BM = np.take_along_axis(arrays.ids, positions_BM, axis=1).astype(np.int64)
    places = [torch.from_numpy(positions_BM), torch.from_numpy(targets_BM)]
    log_probs_B1M = encoder.masked_token_log_probs(
        *(tensor[:, None].to(device) for tensor in inputs), *(tensor.to(device) for tensor in places)
    )
    return -(log_probs_B1M[:, 0] * counts_BM).sum() / counts_BM.sum().clamp(min=1)


def new_embedder(config: RealmConfig, *, seed: int) -> RealmEmbedder:
    """An embedder of random weights, with the pooler of `from_bert`."""
    torch.manual_seed(seed)
    embedder = RealmEmbedder(config)
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
    order = DataOrder(num_blocks=len(blocks), seed=LATER_SEED + seed, rank=0, num_ranks=1)
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
