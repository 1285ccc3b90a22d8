"""One masked query of a block: by salient spans, or by one of the paper's two ablations of them (REALM, table 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from realm_core.training.masking import (
    MaskedQuery,
    SkipReason,
    TokenIds,
    choose_span,
    mask_positions,
    mask_span,
    salient_sentences,
)

Masking = Literal["salient-span", "random-uniform", "random-span"]
"""What is masked in a sentence; the two random ones are ablations."""
MASKINGS: tuple[Masking, ...] = get_args(Masking)

MASKING_COLUMNS = ("body_token_ids", "sentence_starts", "salient_span_starts", "salient_span_stops")
"""What `masked_query` reads of a block record."""

MASK_RATE = 0.15
"""Share of a sentence's word pieces that the random masks hide (BERT, section 3.1; SpanBERT, section 3.1)."""
SPAN_END_PROBABILITY = 0.2
"""Of the geometric distribution of span lengths (SpanBERT, section 3.1: p = 0.2)."""
MAX_SPAN_TOKENS = 10
"""Longest random span (SpanBERT, section 3.1): mean length 3.8."""
FEWEST_TOKENS = 2
"""A sentence of one word piece has nothing left to predict it from."""


def masked_query(
    block: Mapping[str, Any],
    masking: Masking,
    rng: np.random.Generator,
    *,
    mask_id: int,
    max_query_tokens: int,
    max_masks: int,
) -> MaskedQuery | SkipReason:
    """One sentence of a block with something masked, or why there is none.

    Args:
        block: the columns `MASKING_COLUMNS` of a block record.
        masking: `salient-span` draws a span uniformly over all of the block's and masks it; the random ones draw a
            sentence uniformly over all of the block's, and mask pieces of what fits the query length.
        rng: of this example's choices.
        mask_id: of `[MASK]`.
        max_query_tokens: what fits between `[CLS]` and `[SEP]`.
        max_masks: most masked pieces of a query (the reference: 10).
    """
    body = block["body_token_ids"]
    if masking == "salient-span":
        spans = list(zip(block["salient_span_starts"], block["salient_span_stops"], strict=True))
        chosen = choose_span(salient_sentences(len(body), block["sentence_starts"], spans), rng)
        if isinstance(chosen, SkipReason):
            return chosen
        sentence, span = chosen
        text = body[sentence.start : sentence.stop]
        return mask_span(text, span, mask_id=mask_id, max_query_tokens=max_query_tokens, max_masks=max_masks)
    text = _drawn_sentence(body, block["sentence_starts"], rng)[:max_query_tokens]
    if len(text) < FEWEST_TOKENS:
        return SkipReason.SENTENCE_TOO_SHORT
    draw = random_positions if masking == "random-uniform" else random_span_positions
    return mask_positions(text, draw(len(text), rng, max_masks=max_masks), mask_id=mask_id)


def random_positions(num_tokens: int, rng: np.random.Generator, *, max_masks: int) -> list[int]:
    """Word pieces drawn uniformly, ascending: BERT's rate, at least one.

    Departs from BERT in writing `[MASK]` at all of them: the salient spans do too, and only the choice of what is
    masked is to differ between the ablations.
    """
    num_masks = _num_masks(num_tokens, max_masks)
    return sorted(rng.choice(num_tokens, size=num_masks, replace=False).tolist())


def random_span_positions(num_tokens: int, rng: np.random.Generator, *, max_masks: int) -> list[int]:
    """Word pieces of disjoint spans, ascending, of as many pieces as `random_positions` draws.

    Span lengths are geometric and at most 10 (SpanBERT); the last one is cut to what is left to mask, and one that
    fits nowhere any more is shortened. Departs from SpanBERT in counting word pieces, not whole words.
    """
    is_masked = np.zeros(num_tokens, dtype=bool)
    left = _num_masks(num_tokens, max_masks)
    while left:
        length = min(int(rng.geometric(SPAN_END_PROBABILITY)), MAX_SPAN_TOKENS, left)
        start, length = _free_place(is_masked, length, rng)
        is_masked[start : start + length] = True
        left -= length
    return [int(position) for position in np.flatnonzero(is_masked)]


def _free_place(is_masked: np.ndarray, length: int, rng: np.random.Generator) -> tuple[int, int]:
    """Start and length of a span that touches no other one's pieces; the longest that fits, up to `length`."""
    for shorter in range(length, 0, -1):
        taken = np.convolve(is_masked, np.ones(shorter, dtype=int), mode="valid")
        starts = np.flatnonzero(taken == 0)
        if len(starts):
            return int(rng.choice(starts)), shorter
    raise AssertionError("fewer pieces are masked than there are")


def _num_masks(num_tokens: int, max_masks: int) -> int:
    return min(max(1, round(MASK_RATE * num_tokens)), max_masks, num_tokens)


def _drawn_sentence(body_token_ids: TokenIds, sentence_starts: TokenIds, rng: np.random.Generator) -> TokenIds:
    bounds = [*(int(start) for start in sentence_starts), len(body_token_ids)]
    sentence = int(rng.integers(len(sentence_starts)))
    return body_token_ids[bounds[sentence] : bounds[sentence + 1]]
