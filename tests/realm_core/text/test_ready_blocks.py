from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import vocabulary
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from realm_core.errors import UsageError
from realm_core.text.ready_blocks import TEXTS_PER_BATCH, ReadyBlockBuilder
from realm_core.text.salient_spans import RuleTagger

TEXT = "The bridge of Redcliff was built in 1850 by Ada Fenn.  It was old. The tower near Norwick opened in 1901."


@pytest.fixture(scope="module")
def tokenizer():
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary())}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return made


def build(tokenizer, texts, max_block_tokens=512, first_number=0):
    builder = ReadyBlockBuilder(tokenizer=tokenizer, max_block_tokens=max_block_tokens, tagger=RuleTagger())
    return builder.blocks(texts, first_number=first_number)


def words(tokenizer, block, start, stop):
    return tokenizer.decode(list(block.body_token_ids[start:stop]))


def test_a_text_is_one_block_with_its_text_unchanged(tokenizer):
    (ready,) = build(tokenizer, [TEXT], first_number=77)
    block = ready.block
    assert (block.document_id, block.title, block.body, block.title_token_ids) == ("77", "", TEXT, ())
    assert list(block.body_token_ids) == tokenizer.encode(TEXT).ids
    assert not ready.is_truncated


def test_sentence_starts_and_salient_spans_are_offsets_of_tokens(tokenizer):
    (ready,) = build(tokenizer, [TEXT])
    block = ready.block
    stops = [*block.sentence_starts[1:], len(block.body_token_ids)]
    sentences = [words(tokenizer, block, *pair) for pair in zip(block.sentence_starts, stops, strict=True)]
    assert [sentence[:6] for sentence in sentences] == ["the br", "it was", "the to"]
    spans = {words(tokenizer, block, *span) for span in block.salient_spans}
    assert {"ada fenn", "norwick"} <= spans


def test_tokens_beyond_the_positions_are_cut_and_nothing_points_there(tokenizer):
    whole, cut = build(tokenizer, [TEXT])[0], build(tokenizer, [TEXT], max_block_tokens=18)[0]
    assert cut.is_truncated
    assert cut.block.body == TEXT
    assert cut.block.body_token_ids == whole.block.body_token_ids[:15]
    assert cut.block.sentence_starts == tuple(start for start in whole.block.sentence_starts if start < 15)
    assert cut.block.salient_spans == tuple(span for span in whole.block.salient_spans if span[1] <= 15)
    exact = build(tokenizer, [TEXT], max_block_tokens=len(whole.block.body_token_ids) + 3)[0]
    assert not exact.is_truncated
    assert exact == whole


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_a_text_without_tokens_is_a_block_without_sentences(tokenizer, text):
    (ready,) = build(tokenizer, [text])
    assert ready.block.body == text
    assert ready.block.body_token_ids == ready.block.sentence_starts == ready.block.salient_spans == ()


def test_truncation_of_the_tokenizer_does_not_count(tokenizer):
    short = Tokenizer.from_str(tokenizer.to_str())
    short.enable_truncation(4)
    assert build(short, [TEXT]) == build(tokenizer, [TEXT])


def test_numbers_go_on_over_batches(tokenizer):
    ready = build(tokenizer, ["the river"] * (TEXTS_PER_BATCH + 2), first_number=5)
    assert [int(one.block.document_id) for one in ready] == list(range(5, TEXTS_PER_BATCH + 7))


def test_blocks_too_short_for_anything_are_refused(tokenizer):
    with pytest.raises(UsageError, match="at least 16 word pieces"):
        build(tokenizer, [TEXT], max_block_tokens=8)


@settings(max_examples=80, deadline=None)
@given(text=st.text(st.sampled_from("Ab c1.!?。\n'"), max_size=120), limit=st.integers(16, 40))
def test_offsets_are_in_order_and_inside(tokenizer, text, limit):
    block = build(tokenizer, [text], max_block_tokens=limit)[0].block
    num_tokens = len(block.body_token_ids)
    assert num_tokens <= limit - 3
    assert list(block.sentence_starts) == sorted(set(block.sentence_starts))
    assert (block.sentence_starts[:1] == (0,)) == (num_tokens > 0)
    assert all(start < num_tokens for start in block.sentence_starts)
    edges = [edge for span in block.salient_spans for edge in span]
    assert edges == sorted(edges)
    for start, stop in block.salient_spans:
        assert 0 <= start < stop <= num_tokens
        assert not any(start < sentence < stop for sentence in block.sentence_starts)
