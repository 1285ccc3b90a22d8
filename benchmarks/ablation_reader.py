"""The small BERT that reads: made here by masked language modeling alone, of the corpus's own text.

What REALM teaches the retriever is what the reader makes of each candidate; a reader that predicts the same with all of
them teaches nothing. Three things make a small one read within minutes:

- word vectors start from counts, see `ablation_words`: from random ones the loss was still that of the words'
  frequencies after 500 steps;
- values, outputs and the transform before the vocabulary start as the identity, so that a layer begins as an average of
  word vectors. After 300 steps masked names were 0.84 nats likelier with a paragraph that has them than without any;
  with random matrices 0.51 after 1,500 steps;
- as often as not a masked sentence is read with a paragraph that has what is masked.

It ends before it knows the sentences by heart. After 400 to 1,000 steps a masked name was 1.3 to 1.6 nats likelier with
a candidate that has it than with the same query's others; after 3,000, when the loss had fallen to 2.1 nats from 5.4 at
500, by 0.7: what is known without a paragraph says nothing of paragraphs.

Its masks are salient spans, as the paper's own row has them. With the masks of all rows in turn, so that none begins
nearer to its task, it told candidates apart by 0.5 nats after 2,000 steps, and recall fell.

Shapes: B examples, L tokens, M masked positions, V vocabulary, H hidden.
"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.ablation_loop import Trainer
from benchmarks.ablation_words import word_vectors
from realm_core.modeling.configuration import RealmConfig
from realm_core.training.example_generator import DataOrder
from realm_core.training.featurization import NULL_DOCUMENT, CandidateBlock, FeaturizerConfig, pretrain_batch
from realm_core.training.masked_queries import masked_query
from realm_core.training.masking import MaskedQuery
from realm_core.training.models import to_tensors

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.ablation_corpus import BlocksInMemory
    from benchmarks.ablation_presets import Preset
    from realm_core.modeling.knowledge_aug_encoder import RealmKnowledgeAugEncoder
    from realm_core.training.featurization import PretrainBatch, SpecialTokens

HEAD_SIZE = 64
"""BERT's."""
BERT_INITIALIZER_RANGE, BERT_HIDDEN_SIZE = 0.02, 768
STEPS_BETWEEN_LINES = 100
READER_SEED = 1000
"""Its data order is no row's."""
PAIRED_WITH = {"answer": 0.5, "neighbour": 0.25, "any": 0.15, "null": 0.1}
"""What a sentence is read with, by share: a paragraph of its article that has all that is masked (the next one where
there is none), the article's next paragraph, any paragraph of the corpus, the null document."""


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


def train_reader(
    encoder: RealmKnowledgeAugEncoder,
    blocks: BlocksInMemory,
    preset: Preset,
    special: SpecialTokens,
    *,
    device: str,
    say: Callable[[str], None],
) -> list[float]:
    """Trains by masked language modeling, in place; the loss of each step, in nats per masked token."""
    _start_from_counts(encoder, blocks)
    trainer = Trainer([encoder], num_steps=preset.mlm_steps, learning_rate=preset.mlm_learning_rate, device=device)
    sentences = _Sentences(blocks, preset, special)
    losses = []
    for step in range(preset.mlm_steps):
        first = step * preset.mlm_batch_size
        batch = to_tensors(sentences.batch(range(first, first + preset.mlm_batch_size)), device)
        with trainer.autocast():
            loss = _mlm_loss(encoder, batch)
        losses.append(trainer.update(loss))
        if (step + 1) % STEPS_BETWEEN_LINES == 0:
            say(f"step {step + 1}/{preset.mlm_steps}  loss {fmean(losses[-STEPS_BETWEEN_LINES:]):.3f}")
    return losses


def _start_from_counts(encoder: RealmKnowledgeAugEncoder, blocks: BlocksInMemory) -> None:
    """Word vectors and the vocabulary's bias from counts; layers that begin as averages of word vectors."""
    vocab_size, hidden_size = encoder.config.vocab_size, encoder.config.hidden_size
    counts_V = np.bincount(np.concatenate(blocks.body_ids), minlength=vocab_size) + 1.0
    vectors_VH, is_known_V = word_vectors(blocks, vocab_size=vocab_size, hidden_size=hidden_size)
    with torch.no_grad():
        encoder.get_input_embeddings().weight[is_known_V] = vectors_VH[is_known_V]
        encoder.cls.predictions.bias.copy_(torch.from_numpy(np.log(counts_V / counts_V.sum())))
    for layer in encoder.realm.encoder.layer:
        torch.nn.init.eye_(layer.attention.self.value.weight)
        torch.nn.init.eye_(layer.attention.output.dense.weight)
    torch.nn.init.eye_(encoder.cls.predictions.transform.dense.weight)


class _Sentences:
    """Masked sentences, each with one paragraph to read it with."""

    def __init__(self, blocks: BlocksInMemory, preset: Preset, special: SpecialTokens) -> None:
        self._blocks = blocks
        self._special = special
        self._order = DataOrder(num_blocks=len(blocks), seed=READER_SEED, rank=0, num_ranks=1)
        self._lengths = FeaturizerConfig(
            query_length_tokens=preset.query_length_tokens, block_length_tokens=preset.block_length_tokens,
            num_candidates=2,
        )  # fmt: skip

    def batch(self, positions: range) -> PretrainBatch:
        """The batch at positions of the data order, less what has nothing to mask.

        As in pre-training the null document stands first; the second candidate is the paragraph.
        """
        queries, candidates = [], []
        for position in positions:
            block_id, rng = self._order.block_at(position)
            query = masked_query(
                self._blocks.take([block_id])[0],
                "salient-span",
                rng,
                mask_id=self._special.mask_id,
                max_query_tokens=self._lengths.max_query_tokens,
                max_masks=self._lengths.max_masks,
            )
            if isinstance(query, MaskedQuery):
                queries.append(query)
                candidates.append([NULL_DOCUMENT, self._paragraph(block_id, query, rng)])
        return pretrain_batch(queries, candidates, config=self._lengths, special=self._special)

    def _paragraph(self, block_id: int, query: MaskedQuery, rng: np.random.Generator) -> CandidateBlock:
        kind = rng.choice(list(PAIRED_WITH), p=list(PAIRED_WITH.values()))
        if kind == "null":
            return NULL_DOCUMENT
        if kind == "answer":
            found = self._blocks.with_tokens(block_id, query.target_ids)
            chosen = int(rng.choice(found)) if found else self._blocks.neighbour(block_id)
        else:
            chosen = self._blocks.neighbour(block_id) if kind == "neighbour" else int(rng.integers(len(self._blocks)))
        return CandidateBlock(chosen, *self._blocks.token_ids(chosen))


def _mlm_loss(encoder: RealmKnowledgeAugEncoder, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross entropy of what is masked, read with the paragraph."""
    log_probs_B1M = encoder.masked_token_log_probs(
        *(batch[f"joint_{name}_BNL"][:, 1:] for name in ("ids", "is_token", "token_types")),
        batch["mask_positions_BM"],
        batch["target_ids_BM"],
    )
    is_masked_BM = batch["is_masked_BM"]
    return -(log_probs_B1M[:, 0] * is_masked_BM).sum() / is_masked_BM.sum()
