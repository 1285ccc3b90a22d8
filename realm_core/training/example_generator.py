"""Pre-training batches: a masked sentence, the candidates that the live snapshot proposes for it, joint inputs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from realm_core.errors import TrainingError
from realm_core.training.featurization import NULL_DOCUMENT, CandidateBlock, pretrain_batch, select_candidates
from realm_core.training.masked_queries import MASKING_COLUMNS, masked_query
from realm_core.training.masking import MaskedQuery, SkipReason, example_order, example_rng

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from realm_core.retrieval.snapshot_search import SearchResult
    from realm_core.training.featurization import FeaturizerConfig, PretrainBatch, SpecialTokens
    from realm_core.training.masked_queries import Masking

SEARCH_SECONDS = 540.0
"""A service that is being started again is waited for: a large index shard takes minutes to load."""

_epoch_order = lru_cache(maxsize=2)(example_order)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataOrder:
    """Who trains on which block, and when: a function of these four numbers."""

    num_blocks: int
    seed: int
    rank: int
    num_ranks: int

    def block_at(self, position: int) -> tuple[int, np.random.Generator]:
        """The block that stands at a rank's position (counted from the run's start), and its choices' generator."""
        per_epoch = self.num_blocks // self.num_ranks
        epoch, offset = divmod(position, per_epoch)
        order = _epoch_order(self.num_blocks, seed=self.seed, epoch=epoch, rank=self.rank, num_ranks=self.num_ranks)
        block_id = int(order[offset])
        return block_id, example_rng(seed=self.seed, epoch=epoch, example=block_id)


class Blocks(Protocol):
    """Block records by block id, see `BlockRecords`."""

    def __len__(self) -> int:
        """Number of blocks."""
        ...

    def take(self, block_ids: Iterable[int], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """One mapping per block id."""
        ...

    def uids(self, block_ids_K: npt.NDArray[np.int64]) -> np.ndarray:
        """One of 20 bytes per block id; blocks of the same text, which converted corpora have, share it."""
        ...

    def token_ids(self, block_id: int) -> tuple[list[int], list[int]]:
        """Title and body token ids of a block."""
        ...


class TokenSearcher(Protocol):
    """Searches with the live snapshot's own encoder, see `QueryEncoder`."""

    def search_token_ids(
        self, token_ids: Sequence[Sequence[int]], num_hits: int, *, deadline_seconds: float
    ) -> SearchResult:
        """Top hits of tokenized queries [B, K]; all of one snapshot."""
        ...


@dataclass(frozen=True, slots=True)
class GeneratedBatch:
    """A batch and where it came from."""

    arrays: PretrainBatch
    next_position: int
    """Position of the first block that this batch did not use up."""
    snapshot_id: str
    encoder_step: int
    """Training step of the encoder that retrieved the candidates."""
    num_seen: int
    """Blocks that this batch was made of: one query each, or the reason why there is none."""
    skipped: dict[str, int]
    """Blocks passed over while this batch was made, by reason: together with the batch's queries `num_seen`."""


class ExampleGenerator:
    """Makes the batch that starts at a position; the same one each time, as long as the snapshot is the same."""

    def __init__(
        self,
        *,
        records: Blocks,
        searcher: TokenSearcher,
        order: DataOrder,
        batch_size: int,
        featurizer: FeaturizerConfig,
        special: SpecialTokens,
        masking: Masking = "salient-span",
    ) -> None:
        self._records = records
        self._searcher = searcher
        self._order = order
        self._batch_size = batch_size
        self._featurizer = featurizer
        self._special = special
        self._masking = masking

    def batch_at(self, position: int) -> GeneratedBatch:
        """The batch whose first block is the first usable one from `position` on.

        All candidates of a batch come from one snapshot: after a swap in its midst it is begun again.
        """
        while True:
            batch = self._batch_at(position)
            if batch is not None:
                return batch

    def _batch_at(self, position: int) -> GeneratedBatch | None:
        start, skipped = position, Counter[str]()
        queries: list[MaskedQuery] = []
        candidates: list[list[CandidateBlock]] = []
        snapshot: SearchResult | None = None
        while len(queries) < self._batch_size:
            if not queries and position - start > self._order.num_blocks:
                raise _nothing_to_mask(self._order.num_blocks, skipped)
            masked, position = self._next_masked(position, self._batch_size - len(queries), skipped)
            result = self._searcher.search_token_ids(
                [query.token_ids for _, query in masked],
                self._featurizer.num_candidates + 1,
                deadline_seconds=SEARCH_SECONDS,
            )
            if snapshot is not None and snapshot.snapshot_id != result.snapshot_id:
                return None
            snapshot = result
            for (block_id, query), hits_K in zip(masked, result.block_ids_BK, strict=True):
                chosen = select_candidates(
                    hits_K,
                    trivial_block_id=block_id,
                    hit_uids=self._records.uids(hits_K).tolist(),
                    trivial_uid=self._records.uids(np.array([block_id])).tolist()[0],
                    num_candidates=self._featurizer.num_candidates,
                    has_null_document=self._featurizer.has_null_document,
                )
                if isinstance(chosen, SkipReason):
                    skipped[chosen] += 1
                    continue
                queries.append(query)
                candidates.append([self._candidate(int(i)) for i in chosen])
        assert snapshot is not None
        arrays = pretrain_batch(queries, candidates, config=self._featurizer, special=self._special)
        return GeneratedBatch(
            arrays, position, snapshot.snapshot_id, snapshot.encoder_step, position - start, dict(skipped)
        )

    def _next_masked(
        self, position: int, count: int, skipped: Counter[str]
    ) -> tuple[list[tuple[int, MaskedQuery]], int]:
        masked: list[tuple[int, MaskedQuery]] = []
        start = position
        while len(masked) < count:
            if not masked and position - start > self._order.num_blocks:
                raise _nothing_to_mask(self._order.num_blocks, skipped)
            block_id, rng = self._order.block_at(position)
            position += 1
            query = self._mask(block_id, rng)
            if isinstance(query, SkipReason):
                skipped[query] += 1
            else:
                masked.append((block_id, query))
        return masked, position

    def _mask(self, block_id: int, rng: np.random.Generator) -> MaskedQuery | SkipReason:
        return masked_query(
            self._records.take([block_id], MASKING_COLUMNS)[0],
            self._masking,
            rng,
            mask_id=self._special.mask_id,
            max_query_tokens=self._featurizer.max_query_tokens,
            max_masks=self._featurizer.max_masks,
        )

    def _candidate(self, block_id: int) -> CandidateBlock:
        if block_id < 0:
            return NULL_DOCUMENT
        return CandidateBlock(block_id, *self._records.token_ids(block_id))


def _nothing_to_mask(num_blocks: int, skipped: Counter[str]) -> TrainingError:
    return TrainingError(
        where="pre-training examples",
        found=f"no usable sentence in {num_blocks} blocks ({dict(skipped)})",
        expected="sentences whose masks fit the query length, and other blocks to retrieve for them",
        action="With salient spans ingest a corpus whose sentences name dates or names; else raise the query length.",
    )
