"""Documents to block records: ORQA's rule of whole sentences, greedily, within a budget of word pieces."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, chain

import tokenizers

from realm_core.errors import UsageError
from realm_core.records import Block, Document
from realm_core.text.salient_spans import SalientSpanTagger
from realm_core.text.sentences import sentence_offsets
from realm_core.text.tokenized_sentences import TokenizedSentence, split_to_fit, tokenized_sentence

NUM_MARKER_TOKENS = 3
"""[CLS] title [SEP] body [SEP]."""
MIN_BLOCK_TOKENS = 16
MAX_VOCABULARY = 1 << 16
"""Token ids are stored in 16 bits."""


class BlockBuilder:
    """Cuts documents into blocks, tokenizes them and marks their salient spans, once for the life of a corpus.

    Sentences of a document are one stream, so a block crosses paragraphs, as in ORQA. Departs from the reference in
    two places. A sentence too long for a block is split between words (the reference truncates it), so no text is
    lost. The tokens of a title that would leave less than half of the block to the body are truncated to that half;
    the title's text stays whole.
    """

    def __init__(
        self, *, tokenizer: tokenizers.Tokenizer, max_block_tokens: int = 288, tagger: SalientSpanTagger
    ) -> None:
        """Takes a copy of `tokenizer` without truncation and padding, which would cut sentences unseen."""
        self._tokenizer = plain_tokenizer(tokenizer, max_block_tokens)
        self._max_content_tokens = max_block_tokens - NUM_MARKER_TOKENS
        self._tagger = tagger

    def blocks(self, document: Document) -> list[Block]:
        """The document's blocks in order; none if no sentence has a token."""
        title_ids = self._tokenizer.encode(document.title, add_special_tokens=False).ids
        title_ids = title_ids[: self._max_content_tokens // 2]
        max_body_tokens = self._max_content_tokens - len(title_ids)
        pieces = chain.from_iterable(split_to_fit(s, max_body_tokens) for s in self._sentences(document))
        return [_block(document, title_ids, group) for group in _packed(pieces, max_body_tokens)]

    def _sentences(self, document: Document) -> list[TokenizedSentence]:
        texts = [text[start:stop] for text in document.paragraphs for start, stop in sentence_offsets(text)]
        encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        tokenized = (
            tokenized_sentence(text, encoding, self._tagger.tag(text))
            for text, encoding in zip(texts, encodings, strict=True)
        )
        return [sentence for sentence in tokenized if sentence.token_ids]


def _packed(sentences: Iterator[TokenizedSentence], max_tokens: int) -> Iterator[list[TokenizedSentence]]:
    """Groups of consecutive sentences, each as long as fits."""
    group: list[TokenizedSentence] = []
    num_tokens = 0
    for sentence in sentences:
        if group and num_tokens + len(sentence.token_ids) > max_tokens:
            yield group
            group, num_tokens = [], 0
        group.append(sentence)
        num_tokens += len(sentence.token_ids)
    if group:
        yield group


def _block(document: Document, title_ids: list[int], sentences: list[TokenizedSentence]) -> Block:
    starts = list(accumulate((len(sentence.token_ids) for sentence in sentences), initial=0))[:-1]
    spans = ((first + a, first + b) for first, s in zip(starts, sentences, strict=True) for a, b in s.salient_spans)
    return Block(
        document_id=document.document_id,
        title=document.title,
        body=" ".join(sentence.text for sentence in sentences),
        title_token_ids=tuple(title_ids),
        body_token_ids=tuple(chain.from_iterable(sentence.token_ids for sentence in sentences)),
        sentence_starts=tuple(starts),
        salient_spans=tuple(spans),
    )


def plain_tokenizer(tokenizer: tokenizers.Tokenizer, max_block_tokens: int) -> tokenizers.Tokenizer:
    """A copy without truncation and padding.

    Raises:
        UsageError: blocks too short to hold anything, or a vocabulary whose ids do not fit into 16 bits.
    """
    _check(tokenizer, max_block_tokens)
    plain = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    plain.no_truncation()
    plain.no_padding()
    return plain


def _check(tokenizer: tokenizers.Tokenizer, max_block_tokens: int) -> None:
    if max_block_tokens < MIN_BLOCK_TOKENS:
        raise UsageError(
            where="max_block_tokens",
            found=str(max_block_tokens),
            expected=f"at least {MIN_BLOCK_TOKENS} word pieces",
            action="Use 288, the value of the paper.",
        )
    if tokenizer.get_vocab_size() > MAX_VOCABULARY:
        raise UsageError(
            where="tokenizer",
            found=f"a vocabulary of {tokenizer.get_vocab_size():,} entries",
            expected=f"at most {MAX_VOCABULARY:,}, since block records keep token ids in 16 bits",
            action="Use the tokenizer of a BERT encoder, such as bert-base-uncased with 30,522 entries.",
        )
