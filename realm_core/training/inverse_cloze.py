"""Examples of the inverse cloze task: find the block that a sentence was taken from (ORQA, section 4).

Shapes: B queries (each with its block), L tokens (of the query or the block).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from realm_core.training.featurization import FeaturizerConfig, SpecialTokens, block_arrays, query_arrays
from realm_core.training.masking import SkipReason, TokenIds

REMOVAL_RATE = 0.9
"""How often the query's sentence is removed from its block; left in otherwise, so that exact words count as well."""


@dataclass(frozen=True, slots=True)
class InverseClozeExample:
    """A sentence, and the block to be found by it."""

    query_token_ids: tuple[int, ...]
    title_token_ids: tuple[int, ...]
    body_token_ids: tuple[int, ...]
    """The block's body, without the query if `is_removed`."""
    is_removed: bool


@dataclass(frozen=True, slots=True)
class InverseClozeBatch:
    """All that a warm-up step reads; row i of the blocks belongs to query i."""

    query_ids_BL: npt.NDArray[np.int32]
    query_is_token_BL: npt.NDArray[np.bool_]
    block_ids_BL: npt.NDArray[np.int32]
    block_token_types_BL: npt.NDArray[np.int32]
    block_is_token_BL: npt.NDArray[np.bool_]
    is_removed_B: npt.NDArray[np.bool_]


def inverse_cloze_example(
    *,
    title_token_ids: TokenIds,
    body_token_ids: TokenIds,
    sentence_starts: TokenIds,
    rng: np.random.Generator,
    removal_rate: float = REMOVAL_RATE,
) -> InverseClozeExample | SkipReason:
    """One sentence of the block, drawn uniformly, and the block with or without it.

    A block of one sentence is skipped. Departs from the reference, which keeps it when its query stays in: an example
    of two equal texts.
    """
    if len(sentence_starts) < 2:
        return SkipReason.SINGLE_SENTENCE
    body = [int(token) for token in body_token_ids]
    bounds = [*(int(start) for start in sentence_starts), len(body)]
    sentence = int(rng.integers(len(sentence_starts)))
    start, stop = bounds[sentence], bounds[sentence + 1]
    is_removed = bool(rng.random() < removal_rate)
    return InverseClozeExample(
        query_token_ids=tuple(body[start:stop]),
        title_token_ids=tuple(int(token) for token in title_token_ids),
        body_token_ids=tuple(body[:start] + body[stop:] if is_removed else body),
        is_removed=is_removed,
    )


def inverse_cloze_batch(
    examples: Sequence[InverseClozeExample], *, config: FeaturizerConfig, special: SpecialTokens
) -> InverseClozeBatch:
    """The arrays of B examples, padded to the longest of the batch."""
    queries = [example.query_token_ids for example in examples]
    blocks = [(example.title_token_ids, example.body_token_ids) for example in examples]
    query = query_arrays(queries, length_tokens=config.query_length_tokens, special=special)
    block = block_arrays(blocks, length_tokens=config.block_length_tokens, special=special)
    return InverseClozeBatch(
        query_ids_BL=query.ids,
        query_is_token_BL=query.is_token,
        block_ids_BL=block.ids,
        block_token_types_BL=block.token_types,
        block_is_token_BL=block.is_token,
        is_removed_B=np.array([example.is_removed for example in examples], dtype=np.bool_),
    )
