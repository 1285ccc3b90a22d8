"""Documents to block records: whole sentences packed into a budget of word pieces (ORQA), or each paragraph a block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Literal

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

BlockRule = Literal["sentences", "paragraphs"]
"""How documents are cut: ORQA's rule, or each paragraph a block."""


@dataclass(frozen=True, slots=True)
class BlockedDocument:
    """A document's blocks in order, and what of its text is not in their tokens."""

    blocks: list[Block]
    num_truncated: int = 0
    """Blocks whose body has more tokens than they keep; always 0 by the rule `sentences`."""


class BlockBuilder:
    """Cuts documents into blocks, tokenizes them and marks their salient spans, once for the life of a corpus.

    By the rule `sentences`, those of a document are one stream, so a block crosses paragraphs, as in ORQA. Departs
    from the reference in two places. A sentence too long for a block is split between words (the reference truncates
    it), so no text is lost. The tokens of a title that would leave less than half of the block to the body are
    truncated to that half; the title's text stays whole.

    By the rule `paragraphs`, each paragraph with a token is one block. Of a longer one the token ids, sentence starts
    and salient spans end where the block is full, so the embedder and the reader see its beginning only; its text
    stays whole, since that is what people read and what answers are looked for in.
    """

    def __init__(
        self,
        *,
        tokenizer: tokenizers.Tokenizer,
        max_block_tokens: int = 288,
        tagger: SalientSpanTagger,
        rule: BlockRule = "sentences",
    ) -> None:
        """Takes a copy of `tokenizer` without truncation and padding, which would cut sentences unseen."""
        self._tokenizer = plain_tokenizer(tokenizer, max_block_tokens)
        self._max_content_tokens = max_block_tokens - NUM_MARKER_TOKENS
        self._tagger = tagger
        self._rule = rule

    def blocks(self, document: Document) -> list[Block]:
        """The document's blocks in order; none if no sentence has a token."""
        return self.cut(document).blocks

    def cut(self, document: Document) -> BlockedDocument:
        """The document's blocks, and how many of them were truncated."""
        title_ids = self._tokenizer.encode(document.title, add_special_tokens=False).ids
        title_ids = title_ids[: self._max_content_tokens // 2]
        max_body_tokens = self._max_content_tokens - len(title_ids)
        if self._rule == "paragraphs":
            return self._one_per_paragraph(document, title_ids, max_body_tokens)
        sentences = self._sentences(document.paragraphs)
        pieces = chain.from_iterable(split_to_fit(sentence, max_body_tokens) for sentence in sentences)
        return BlockedDocument([_block(document, title_ids, group) for group in _packed(pieces, max_body_tokens)])

    def _one_per_paragraph(self, document: Document, title_ids: list[int], max_body_tokens: int) -> BlockedDocument:
        by_paragraph = [(text, self._sentences([text])) for text in document.paragraphs]
        whole = [
            replace(_block(document, title_ids, sentences), body=text) for text, sentences in by_paragraph if sentences
        ]
        num_truncated = sum(len(block.body_token_ids) > max_body_tokens for block in whole)
        return BlockedDocument([_truncated(block, max_body_tokens) for block in whole], num_truncated)

    def _sentences(self, paragraphs: Sequence[str]) -> list[TokenizedSentence]:
        texts = [text[start:stop] for text in paragraphs for start, stop in sentence_offsets(text)]
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


def _truncated(block: Block, max_body_tokens: int) -> Block:
    """The block with the first of its tokens, and the salient spans that are whole there."""
    return replace(
        block,
        body_token_ids=block.body_token_ids[:max_body_tokens],
        sentence_starts=tuple(start for start in block.sentence_starts if start < max_body_tokens),
        salient_spans=tuple(span for span in block.salient_spans if span[1] <= max_body_tokens),
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
