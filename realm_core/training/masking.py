"""Pre-training queries: a sentence with a salient span, or other word pieces, masked out (REALM, section 3.4)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from realm_core.errors import TrainingError

TokenIds = Sequence[int] | npt.NDArray[np.integer]
"""Word pieces of one text, without markers: a tuple, a list, or a row of an Arrow column."""


class SkipReason(StrEnum):
    """Why a block or sentence gives no training example; counted, never raised."""

    NO_SALIENT_SPAN = "no_salient_span"
    TOO_MANY_MASKS = "too_many_masks"
    MASK_TRUNCATED = "mask_truncated"
    TOO_FEW_CANDIDATES = "too_few_candidates"
    SINGLE_SENTENCE = "single_sentence"
    SENTENCE_TOO_SHORT = "sentence_too_short"


@dataclass(frozen=True, slots=True)
class SalientSentence:
    """A sentence that has something to mask."""

    start: int
    """Offset in the block's body of its first token."""
    stop: int
    spans: tuple[tuple[int, int], ...]
    """Half-open offsets from the start of the *sentence*; at least one."""


@dataclass(frozen=True, slots=True)
class MaskedQuery:
    """A sentence with some of its word pieces replaced by `[MASK]`."""

    token_ids: tuple[int, ...]
    """The sentence after masking, cut to the query length, without markers."""
    mask_positions: tuple[int, ...]
    """Offsets of the masks in `token_ids`, ascending."""
    target_ids: tuple[int, ...]
    """The tokens that stood there."""


def salient_sentences(
    num_body_tokens: int, sentence_starts: TokenIds, salient_spans: Sequence[tuple[int, int]]
) -> list[SalientSentence]:
    """The sentences of a block that hold a salient span, in order.

    Spans that leave their sentence are left out, as in the reference.
    """
    starts = [int(start) for start in sentence_starts]
    stops = [*starts[1:], num_body_tokens]
    spans_of: dict[int, list[tuple[int, int]]] = {}
    for span_start, span_stop in salient_spans:
        sentence = bisect_right(starts, span_start) - 1
        if sentence >= 0 and span_stop <= stops[sentence]:
            shifted = (int(span_start) - starts[sentence], int(span_stop) - starts[sentence])
            spans_of.setdefault(sentence, []).append(shifted)
    return [SalientSentence(starts[s], stops[s], tuple(spans)) for s, spans in sorted(spans_of.items())]


def choose_span(
    sentences: Sequence[SalientSentence], rng: np.random.Generator
) -> tuple[SalientSentence, tuple[int, int]] | SkipReason:
    """One span, uniformly over all spans of the sentences given, with its sentence.

    Give all sentences of a block for the reference's rule (one span per block), or one sentence.
    """
    pairs = [(sentence, span) for sentence in sentences for span in sentence.spans]
    if not pairs:
        return SkipReason.NO_SALIENT_SPAN
    return pairs[int(rng.integers(len(pairs)))]


def mask_span(
    sentence_token_ids: TokenIds, span: tuple[int, int], *, mask_id: int, max_query_tokens: int, max_masks: int
) -> MaskedQuery | SkipReason:
    """The sentence with all pieces of the span masked, or why that cannot be.

    `max_query_tokens` counts what fits between `[CLS]` and `[SEP]`. Departs from the reference in skipping a span of
    more than `max_masks` pieces: there all are masked, but only the first ones are predicted.

    Raises:
        TrainingError: The span is empty or leaves the sentence.
    """
    token_ids = [int(token) for token in sentence_token_ids]
    start, stop = span
    _check_span(start, stop, len(token_ids))
    if stop - start > max_masks:
        return SkipReason.TOO_MANY_MASKS
    if stop > max_query_tokens:
        return SkipReason.MASK_TRUNCATED
    masked = [*token_ids[:start], *[mask_id] * (stop - start), *token_ids[stop:]]
    return MaskedQuery(tuple(masked[:max_query_tokens]), tuple(range(start, stop)), tuple(token_ids[start:stop]))


def mask_positions(sentence_token_ids: TokenIds, positions: Sequence[int], *, mask_id: int) -> MaskedQuery:
    """The sentence with the pieces at these ascending positions masked."""
    token_ids = [int(token) for token in sentence_token_ids]
    masked = list(token_ids)
    for position in positions:
        masked[position] = mask_id
    return MaskedQuery(tuple(masked), tuple(positions), tuple(token_ids[position] for position in positions))


def _check_span(start: int, stop: int, num_tokens: int) -> None:
    if 0 <= start < stop <= num_tokens:
        return
    raise TrainingError(
        where="mask_span",
        found=f"span [{start}, {stop}) in a sentence of {num_tokens} tokens",
        expected="0 <= start < stop <= number of tokens, counted from the start of the sentence",
        action="Pass spans of `salient_sentences`; if they came from there, ingest the corpus again.",
    )


def example_order(num_examples: int, *, seed: int, epoch: int, rank: int, num_ranks: int) -> npt.NDArray[np.int64]:
    """The examples that a rank trains on in an epoch, in order: int64 [num_examples // num_ranks].

    Every rank gets the same number, so that no rank waits for a step the others do not take: the last
    `num_examples % num_ranks` of the epoch's shuffle are dropped, other ones each epoch. Apart from these each example
    comes exactly once per epoch. A function of its arguments alone: a resumed run, or another process, gets the same.
    """
    if not 0 <= rank < num_ranks:
        raise TrainingError(
            where="example_order",
            found=f"rank {rank} of {num_ranks}",
            expected="0 <= rank < num_ranks",
            action="Pass the world rank and world size of the trainer.",
        )
    shuffled = np.random.default_rng([seed, epoch]).permutation(num_examples)
    num_kept = num_examples - num_examples % num_ranks
    return np.ascontiguousarray(shuffled[rank:num_kept:num_ranks], dtype=np.int64)


def example_rng(*, seed: int, epoch: int, example: int) -> np.random.Generator:
    """The generator of one example's choices: the same whoever makes the example, and whenever; new each epoch."""
    return np.random.default_rng([seed, epoch, example])
