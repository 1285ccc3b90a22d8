"""Texts that are blocks already, as a published model brings them: their words stay as they are."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import tokenizers

from realm_core.records import Block
from realm_core.text.blocking import NUM_MARKER_TOKENS, plain_tokenizer
from realm_core.text.salient_spans import SalientSpan, SalientSpanTagger
from realm_core.text.sentences import sentence_offsets
from realm_core.text.tokenized_sentences import tokenized_sentence

TEXTS_PER_BATCH = 512
"""Texts tokenized at a time: their tokens with offsets take some 10 MB."""


@dataclass(frozen=True, slots=True)
class ReadyBlock:
    """A block without a title, and whether its tokens were cut."""

    block: Block
    is_truncated: bool


class ReadyBlockBuilder:
    """Makes one block of each text: tokens of the text as a whole, sentence starts and salient spans.

    A text of more tokens than the encoder has positions keeps its words and loses its last tokens.
    """

    def __init__(self, *, tokenizer: tokenizers.Tokenizer, max_block_tokens: int, tagger: SalientSpanTagger) -> None:
        """`max_block_tokens` counts the three markers."""
        self._tokenizer = plain_tokenizer(tokenizer, max_block_tokens)
        self._max_body_tokens = max_block_tokens - NUM_MARKER_TOKENS
        self._tagger = tagger

    def blocks(self, texts: Sequence[str], *, first_number: int) -> list[ReadyBlock]:
        """One block per text; the document id is the text's number, counted from `first_number`."""
        blocks: list[ReadyBlock] = []
        for start in range(0, len(texts), TEXTS_PER_BATCH):
            batch = list(texts[start : start + TEXTS_PER_BATCH])
            encodings = self._tokenizer.encode_batch(batch, add_special_tokens=False)
            numbers = range(first_number + start, first_number + start + len(batch))
            blocks += [self._block(*fields) for fields in zip(numbers, batch, encodings, strict=True)]
        return blocks

    def _block(self, number: int, text: str, encoding: tokenizers.Encoding) -> ReadyBlock:
        limit, sentences = self._max_body_tokens, sentence_offsets(text)
        tokenized = tokenized_sentence(text, encoding, self._spans(text, sentences))
        token_starts = [start for start, _ in tokenized.token_offsets]
        sentence_starts = {bisect_left(token_starts, start) for start, _ in sentences}
        num_tokens = len(tokenized.token_ids)
        block = Block(
            document_id=str(number),
            title="",
            body=text,
            title_token_ids=(),
            body_token_ids=tuple(tokenized.token_ids[:limit]),
            sentence_starts=tuple(sorted(start for start in sentence_starts if start < min(num_tokens, limit))),
            salient_spans=tuple((start, stop) for start, stop in tokenized.salient_spans if stop <= limit),
        )
        return ReadyBlock(block, is_truncated=num_tokens > limit)

    def _spans(self, text: str, sentences: Sequence[tuple[int, int]]) -> list[SalientSpan]:
        """The salient spans of all sentences, as offsets in the text."""
        return [
            SalientSpan(first + span.start, first + span.stop, span.kind)
            for first, last in sentences
            for span in self._tagger.tag(text[first:last])
        ]
