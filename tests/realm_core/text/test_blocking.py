from __future__ import annotations

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from realm_core.errors import UsageError
from realm_core.records import Document
from realm_core.text.blocking import BlockBuilder
from realm_core.text.salient_spans import RuleTagger
from realm_core.text.sentences import sentence_offsets

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-()"
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{c}" for c in LETTERS), "lincoln", "paris", "1865", "东"]
VOCABULARY = {token: index for index, token in enumerate(TOKENS)}


def word_piece() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(WordPiece(VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def build(*paragraphs, title="t", max_block_tokens=16):
    builder = BlockBuilder(tokenizer=word_piece(), max_block_tokens=max_block_tokens, tagger=RuleTagger())
    return builder.blocks(Document("7", title, paragraphs))


def cut_paragraphs(*paragraphs, title="t", max_block_tokens=16):
    builder = BlockBuilder(
        tokenizer=word_piece(), max_block_tokens=max_block_tokens, tagger=RuleTagger(), rule="paragraphs"
    )
    return builder.cut(Document("7", title, paragraphs))


def ids(*tokens):
    return tuple(VOCABULARY[token] for token in tokens)


def test_whole_sentences_are_packed_greedily_across_paragraphs():
    first, second = build("A b c. D e f.", "G h i. J k l.")  # 4 tokens each, 12 fit
    assert first.body == "A b c. D e f. G h i."
    assert second.body == "J k l."
    assert first.body_token_ids == ids(*"abc.def.ghi.")
    assert first.sentence_starts == (0, 4, 8)
    assert (first.document_id, first.title, first.title_token_ids) == ("7", "t", ids("t"))


def test_salient_spans_become_token_offsets_in_the_body():
    (block,) = build("A b. In 1865 Mr Lincoln saw Paris.", max_block_tokens=64)
    # a b . in=i ##n 1865 mr=m ##r lincoln saw=s ##a ##w paris .
    assert block.salient_spans == ((5, 6), (8, 9), (12, 13))
    assert [block.body_token_ids[start] for start, _ in block.salient_spans] == list(ids("1865", "lincoln", "paris"))


def test_a_span_of_more_than_ten_tokens_is_dropped():
    (block,) = build("He met Abcdefghij in Paris, not Abcdefghijk.", max_block_tokens=64)
    spans = [block.body_token_ids[start:stop] for start, stop in block.salient_spans]
    assert spans == [ids("a", *(f"##{c}" for c in "bcdefghij")), ids("paris")]


def test_a_sentence_too_long_is_split_between_words():
    blocks = build("a b c d e f g h i j kl mn o p.")  # 12 fit; "kl" is two tokens and would be cut
    assert [block.body for block in blocks] == ["a b c d e f g h i j kl", "mn o p."]
    assert [block.sentence_starts for block in blocks] == [(0,), (0,)]


def test_without_spaces_the_cut_is_between_tokens():
    blocks = build("东" * 20)
    assert [block.body for block in blocks] == ["东" * 12, "东" * 8]


def test_a_long_title_leaves_half_of_the_block_to_the_body():
    (block,) = build("a b c d e.", title="x y z " * 10)
    assert len(block.title_token_ids) == 6  # half of 16 - 3
    assert block.title == "x y z " * 10


def test_sentences_without_tokens_are_dropped():
    (block,) = build("A b.", "\u0001\u0002", "C d.")
    assert block.body == "A b. C d."
    assert build("\u0001") == []


def test_each_paragraph_is_a_block_however_short():
    cut = cut_paragraphs("A b c. D e f.", "G.")
    assert [block.body for block in cut.blocks] == ["A b c. D e f.", "G."]
    assert [block.sentence_starts for block in cut.blocks] == [(0, 4), (0,)]
    assert cut.num_truncated == 0
    with_markers = 3 + 1 + 8
    assert all(3 + len(b.title_token_ids) + len(b.body_token_ids) <= with_markers for b in cut.blocks)


def test_a_long_paragraph_keeps_its_text_and_the_tokens_sentences_and_spans_that_fit():
    text = "A x. In Paris c d e f g h i j Lincoln. K l."  # a x . i ##n paris c …; 12 fit, up to "h"
    whole, cut = cut_paragraphs(text, max_block_tokens=64), cut_paragraphs(text)
    assert (whole.num_truncated, cut.num_truncated) == (0, 1)
    (full,), (block,) = whole.blocks, cut.blocks
    assert block.body == text
    assert block.body_token_ids == full.body_token_ids[:12]
    assert (full.sentence_starts, block.sentence_starts) == ((0, 3, 16), (0, 3))
    assert (full.salient_spans, block.salient_spans) == (((5, 6), (14, 15)), ((5, 6),))


def test_a_paragraph_that_fits_exactly_is_not_truncated():
    assert cut_paragraphs("a b c d e f g h i j k.").num_truncated == 0
    assert cut_paragraphs("a b c d e f g h i j k l.").num_truncated == 1


def test_a_paragraph_without_tokens_makes_no_block():
    assert [block.body for block in cut_paragraphs("\u0001", "A.").blocks] == ["A."]


def test_truncation_and_padding_of_the_tokenizer_do_not_count():
    tokenizer = word_piece()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9)
    (block,) = BlockBuilder(tokenizer=tokenizer, tagger=RuleTagger()).blocks(Document("1", "t", ("a b c d e f.",)))
    assert block.body_token_ids == ids(*"abcdef.")
    assert tokenizer.truncation is not None  # the caller's own stays as it was


def test_limits_are_checked():
    with pytest.raises(UsageError, match="at least 16"):
        build("a", max_block_tokens=15)
    large = word_piece()
    large.add_tokens([f"extra{n}" for n in range(70_000)])
    with pytest.raises(UsageError, match="at most 65,536"):
        BlockBuilder(tokenizer=large, tagger=RuleTagger())


PROSE = st.text(alphabet=st.sampled_from(list("abcAB 1.?!'(東é\u0301\t")), min_size=1, max_size=120)


@settings(deadline=None)
@given(st.lists(PROSE, max_size=4), st.integers(16, 40), st.text(alphabet="ab ", max_size=30))
def test_blocks_rejoin_to_the_document_within_budget(paragraphs, max_block_tokens, title):
    tokenizer = word_piece()
    blocks = build(*paragraphs, title=title, max_block_tokens=max_block_tokens)
    sentences = [text[start:stop] for text in paragraphs for start, stop in sentence_offsets(text)]
    kept = [sentence for sentence in sentences if tokenizer.encode(sentence, add_special_tokens=False).ids]
    assert "".join("".join(b.body.split()) for b in blocks) == "".join("".join(sentence.split()) for sentence in kept)
    all_ids = [i for sentence in kept for i in tokenizer.encode(sentence, add_special_tokens=False).ids]
    assert [i for block in blocks for i in block.body_token_ids] == all_ids
    for block in blocks:
        assert 3 + len(block.title_token_ids) + len(block.body_token_ids) <= max_block_tokens
        starts = block.sentence_starts
        assert starts[0] == 0
        assert all(a < b for a, b in zip(starts, [*starts[1:], len(block.body_token_ids)], strict=True))
        stops = [0, *(stop for _, stop in block.salient_spans)]
        for previous, (start, stop) in zip(stops, block.salient_spans, strict=False):
            assert previous <= start < stop <= len(block.body_token_ids)
            assert not any(start < s < stop for s in starts)


@settings(deadline=None)
@given(st.lists(PROSE, max_size=4), st.integers(16, 40), st.text(alphabet="ab ", max_size=30))
def test_paragraph_blocks_begin_as_their_paragraphs(paragraphs, max_block_tokens, title):
    tokenizer = word_piece()
    cut = cut_paragraphs(*paragraphs, title=title, max_block_tokens=max_block_tokens)
    encoded = {text: tuple(tokenizer.encode(text, add_special_tokens=False).ids) for text in paragraphs}
    assert [block.body for block in cut.blocks] == [text for text in paragraphs if encoded[text]]
    num_truncated = 0
    for block in cut.blocks:
        num_tokens, room = len(block.body_token_ids), max_block_tokens - 3 - len(block.title_token_ids)
        assert block.body_token_ids == encoded[block.body][:room]
        num_truncated += len(encoded[block.body]) > room
        starts = block.sentence_starts
        assert starts[0] == 0
        assert all(a < b for a, b in zip(starts, [*starts[1:], num_tokens], strict=True))
        for start, stop in block.salient_spans:
            assert start < stop <= num_tokens
            assert not any(start < s < stop for s in starts)
    assert cut.num_truncated == num_truncated


@given(
    st.lists(st.sampled_from(["Lincoln", "was", "in", "Paris", "1865.", "A", "b.", "東京", "O'Neil", "?"]), max_size=40)
)
def test_body_tokens_are_the_tokens_of_the_body(words):
    for block in build(" ".join(words), max_block_tokens=24):
        assert block.body_token_ids == tuple(word_piece().encode(block.body, add_special_tokens=False).ids)
