"""One sentence with its tokens and salient spans, and the cutting of one that is too long for a block."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import tokenizers

from realm_core.text.salient_spans import SalientSpan

MAX_SPAN_TOKENS = 10
"""A longer salient span is not masked (REALM's limit of masks per sentence)."""


@dataclass(frozen=True, slots=True)
class TokenizedSentence:
    """A sentence as it goes into a block."""

    text: str
    token_ids: Sequence[int]
    token_offsets: Sequence[tuple[int, int]]
    """Half-open character offsets in `text`, one pair a token."""
    salient_spans: Sequence[tuple[int, int]]
    """Half-open offsets into `token_ids`, sorted and disjoint."""


def tokenized_sentence(text: str, encoding: tokenizers.Encoding, spans: list[SalientSpan]) -> TokenizedSentence:
    """Maps character spans to whole tokens; a span without a token, or of more than 10, is dropped."""
    offsets = encoding.offsets
    token_starts, token_stops = [start for start, _ in offsets], [stop for _, stop in offsets]
    token_spans: list[tuple[int, int]] = []
    for span in spans:
        start, stop = bisect_right(token_stops, span.start), bisect_left(token_starts, span.stop)
        is_disjoint = not token_spans or token_spans[-1][1] <= start
        if is_disjoint and 0 < stop - start <= MAX_SPAN_TOKENS:
            token_spans.append((start, stop))
    return TokenizedSentence(text, encoding.ids, offsets, token_spans)


def split_to_fit(sentence: TokenizedSentence, max_tokens: int) -> Iterator[TokenizedSentence]:
    """The sentence, or its pieces of at most `max_tokens` tokens, cut at the last space that fits.

    Where there is no space (Chinese, a run of punctuation) the cut is between two tokens. A salient span that is cut
    is dropped.
    """
    start, num_tokens = 0, len(sentence.token_ids)
    while num_tokens - start > max_tokens:
        stop = _last_cut(sentence, start, start + max_tokens)
        yield _piece(sentence, start, stop)
        start = stop
    yield sentence if start == 0 else _piece(sentence, start, num_tokens)


def _last_cut(sentence: TokenizedSentence, start: int, limit: int) -> int:
    offsets, text = sentence.token_offsets, sentence.text
    for stop in range(limit, start, -1):
        if any(character.isspace() for character in text[offsets[stop - 1][1] : offsets[stop][0]]):
            return stop
    return limit


def _piece(sentence: TokenizedSentence, start: int, stop: int) -> TokenizedSentence:
    """Tokens `start` to `stop`. Characters without a token go with the token before them."""
    offsets = sentence.token_offsets
    first = offsets[start][0] if start else 0
    last = offsets[stop][0] if stop < len(offsets) else len(sentence.text)
    text = sentence.text[first:last].strip()
    first += len(sentence.text[first:last]) - len(sentence.text[first:last].lstrip())
    return TokenizedSentence(
        text=text,
        token_ids=sentence.token_ids[start:stop],
        token_offsets=[(a - first, b - first) for a, b in offsets[start:stop]],
        salient_spans=[(a - start, b - start) for a, b in sentence.salient_spans if start <= a and b <= stop],
    )
