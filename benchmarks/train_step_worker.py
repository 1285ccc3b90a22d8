"""Peak memory of a training step, in a process of its own: `python -m benchmarks.train_step_worker --side ours`.

Retriever and knowledge-augmented encoder under one loss, AdamW, dropout, on one batch without padding: the same token
ids on both sides. Runs under this project and under transformers 4.40.2, so it imports neither at the top. The last
line of standard output is one JSON object.

Shapes: B queries, N candidates, L tokens.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.model_cases import CLS, FIRST_WORD, FULL, MASK, MAX_MASKS, QUICK, SEP, Sizes
from benchmarks.model_worker import LEARNING_RATE, fill_by_name, peak_bytes, resident_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

SIDES = ("theirs", "ours", "ours, layers kept")
"""The last one without gradient checkpointing."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch of pre-training, every text as long as it may be."""

    query_ids_BL: Tensor
    candidate_ids_BNL: Tensor
    joint_ids_BNL: Tensor
    joint_types_BNL: Tensor
    mask_positions_BM: Tensor
    target_ids_BM: Tensor


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=SIDES, required=True)
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.num_threads)
    sizes = QUICK if options.quick else FULL
    side = Theirs(sizes) if options.side == "theirs" else Ours(sizes, recomputes=options.side == "ours")
    print(json.dumps(measure(side, sizes)))


class Side(Protocol):
    """What is measured."""

    def models(self) -> list[nn.Module]:
        """All models that are trained."""

    def loss(self, batch: Batch) -> Tensor:
        """Of the batch, with its graph."""


def measure(side: Side, sizes: Sizes) -> dict[str, Any]:
    """The loss without dropout on a small batch, by which sides are compared; bytes and seconds of a whole step."""
    small = make_batch(sizes.warm_up())
    for model in side.models():
        for name, parameter in model.named_parameters():
            fill_by_name(name, parameter)
        model.eval()
    with torch.no_grad():
        compared = float(side.loss(small))
    for model in side.models():
        model.train()
    parameters = [p for model in side.models() for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE)
    constructed_bytes = resident_bytes()
    _step(optimizer, side, small)  # leaves the moments, so that the peak is that of any later step
    started = time.perf_counter()
    _step(optimizer, side, make_batch(sizes))
    return {
        "loss": compared,
        "constructed_bytes": constructed_bytes,
        "peak_bytes": peak_bytes(),
        "seconds": time.perf_counter() - started,
    }


def _step(optimizer: torch.optim.Optimizer, side: Side, batch: Batch) -> None:
    side.loss(batch).backward()
    optimizer.step()
    optimizer.zero_grad()


def make_batch(sizes: Sizes) -> Batch:
    """The same on every call: a query of full length, whose first words are masked, and full blocks."""
    rng = np.random.RandomState(0)
    shape_BN = (sizes.num_queries, sizes.num_candidates)
    query = _words(rng, (sizes.num_queries, sizes.query_tokens), sizes)
    candidate = _words(rng, (*shape_BN, sizes.block_tokens), sizes)
    num_masks = min(MAX_MASKS, sizes.query_tokens - 2)
    positions = np.tile(np.arange(1, num_masks + 1), (sizes.num_queries, 1))
    targets = np.take_along_axis(query, positions, 1)
    np.put_along_axis(query, positions, MASK, 1)
    repeated = np.repeat(query[:, None], sizes.num_candidates, 1)
    joint = np.concatenate([repeated, candidate[..., 1:]], -1)[..., : sizes.joint_tokens]
    types = np.broadcast_to(np.arange(joint.shape[-1]) >= sizes.query_tokens, joint.shape).astype(np.int64)
    return Batch(*map(torch.from_numpy, (query, candidate, joint, types, positions, targets)))


def _words(rng: np.random.RandomState, shape: Iterable[int], sizes: Sizes) -> np.ndarray:
    ids = rng.randint(FIRST_WORD, sizes.vocab_size, size=tuple(shape))
    ids[..., 0], ids[..., -1] = CLS, SEP
    return ids


class Ours:
    """What a rank of `realm pretrain` trains."""

    def __init__(self, sizes: Sizes, *, recomputes: bool) -> None:
        from realm_core.modeling import RealmConfig, RealmKnowledgeAugEncoder, RealmScorer
        from realm_core.training.models import RealmPretrainModel, recompute_layers

        config = RealmConfig(num_candidates=sizes.num_candidates, **sizes.config)
        self._scorer = RealmScorer(config)  # for its names: the embedder in it is what is trained
        self._encoder = RealmKnowledgeAugEncoder(config)
        self._model = RealmPretrainModel(self._scorer.embedder, self._encoder)
        if recomputes:
            recompute_layers(self._model)

    def models(self) -> list[nn.Module]:
        """See `Side.models`."""
        return [self._scorer, self._encoder]

    def loss(self, batch: Batch) -> Tensor:
        """See `Side.loss`."""
        loss: Tensor = self._model(
            {
                "query_ids_BL": batch.query_ids_BL,
                "query_is_token_BL": _all(batch.query_ids_BL),
                "candidate_ids_BNL": batch.candidate_ids_BNL,
                "candidate_is_token_BNL": _all(batch.candidate_ids_BNL),
                "candidate_token_types_BNL": torch.zeros_like(batch.candidate_ids_BNL),
                "joint_ids_BNL": batch.joint_ids_BNL,
                "joint_is_token_BNL": _all(batch.joint_ids_BNL),
                "joint_token_types_BNL": batch.joint_types_BNL,
                "mask_positions_BM": batch.mask_positions_BM,
                "target_ids_BM": batch.target_ids_BM,
                "is_masked_BM": _all(batch.target_ids_BM),
            }
        )[0]
        return loss


class Theirs:
    """RealmScorer and RealmKnowledgeAugEncoder of transformers 4.40.2, put together as its documentation does."""

    def __init__(self, sizes: Sizes) -> None:
        import transformers

        config = transformers.RealmConfig(num_candidates=sizes.num_candidates, **sizes.config)
        self._scorer = transformers.RealmScorer(config)
        self._encoder = transformers.RealmKnowledgeAugEncoder(config)

    def models(self) -> list[nn.Module]:
        """See `Side.models`."""
        return [self._scorer, self._encoder]

    def loss(self, batch: Batch) -> Tensor:
        """See `Side.loss`."""
        scored = self._scorer(
            input_ids=batch.query_ids_BL,
            attention_mask=_all(batch.query_ids_BL).long(),
            token_type_ids=torch.zeros_like(batch.query_ids_BL),
            candidate_input_ids=batch.candidate_ids_BNL,
            candidate_attention_mask=_all(batch.candidate_ids_BNL).long(),
            candidate_token_type_ids=torch.zeros_like(batch.candidate_ids_BNL),
        )
        labels_BL = torch.full_like(batch.joint_ids_BNL[:, 0], -100)
        labels_BL.scatter_(1, batch.mask_positions_BM, batch.target_ids_BM)
        loss: Tensor = self._encoder(
            input_ids=batch.joint_ids_BNL,
            attention_mask=_all(batch.joint_ids_BNL).long(),
            token_type_ids=batch.joint_types_BNL,
            relevance_score=scored.relevance_score,
            labels=labels_BL,
            mlm_mask=(labels_BL >= 0).long(),
        ).loss
        return loss


def _all(ids: Tensor) -> Tensor:
    return torch.ones_like(ids, dtype=torch.bool)


if __name__ == "__main__":
    main()
