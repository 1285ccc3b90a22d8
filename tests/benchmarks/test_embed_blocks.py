from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from benchmarks.embed_blocks import (
    Document,
    drawn_slices,
    load_blocks,
    make_blocks,
    num_padded_tokens,
    read_documents,
    sentence_blocks,
)
from realm_core.errors import SourceError, UsageError

WORDS = ["[UNK]", ".", *"abcdefghijklmnopqrstuvwxyz"]
LONG = "a " * 300 + "."


@pytest.fixture(scope="module")
def tokenizer():
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.enable_truncation(4)
    return made


def test_paragraphs_are_blocks_cut_at_288_tokens(tokenizer):
    blocks = make_blocks([Document("t", ("A x. C d.", LONG))], tokenizer, "paragraphs")
    assert blocks.bodies == ["A x. C d.", LONG]
    assert blocks.lengths_R.tolist() == [3 + 1 + 6, 288]


def test_packed_blocks_hold_whole_sentences_across_paragraphs(tokenizer):
    document = Document("t", ("A x. C d.", "E f.", "g " * 280 + ".", LONG))
    blocks = make_blocks([document], tokenizer, "packed")
    assert blocks.bodies[0] == "A x. C d. E f."
    assert blocks.lengths_R.max() == 288
    tokens = [len(ids) for ids in blocks.body_ids]
    assert sum(tokens) == 3 * 3 + 281 + 301
    assert tokens[:3] == [9, 281, 284]


def test_sentences_have_no_titles(tokenizer):
    blocks = sentence_blocks([Document("t", ("A x. C d.", LONG))], tokenizer, longest_tokens=10)
    assert blocks.titles == ["", "", ""]
    assert blocks.lengths_R.tolist() == [6, 6, 10]


def test_blocks_are_saved_and_taken(tokenizer, tmp_path):
    blocks = make_blocks([Document("t", ("A x.", "C d e."))], tokenizer, "paragraphs")
    blocks.save(tmp_path / "blocks.json")
    loaded = load_blocks(tmp_path / "blocks.json").take([1])
    assert loaded.bodies == ["C d e."]
    assert loaded.body_ids[0].tolist() == blocks.body_ids[1].tolist()
    assert loaded.body_ids[0].dtype == np.uint16


def test_slices_are_alike_disjoint_and_the_same_for_a_seed():
    lengths = np.random.default_rng(1).integers(10, 289, 5_000)
    slices = drawn_slices(lengths, wanted=900, num_rounds=3, seed=0)
    assert [len(rows) for rows in slices] == [288] * 3  # 9 runs of 32
    assert len(np.unique(np.concatenate(slices))) == 3 * 288
    for rows in slices:
        assert lengths[rows].mean() == pytest.approx(lengths.mean(), rel=0.1)
        assert num_padded_tokens(lengths[rows], 32) < 1.03 * lengths[rows].sum()
    again, other = (drawn_slices(lengths, wanted=900, num_rounds=3, seed=seed) for seed in (0, 1))
    assert all((a == b).all() for a, b in zip(slices, again, strict=True))
    assert any((a != b).any() for a, b in zip(slices, other, strict=True))


@pytest.mark.parametrize(("num_blocks", "wanted", "num_rounds"), [(7, 7, 7), (100, 30, 3), (33, 1000, 2), (5, 2, 2)])
def test_small_corpora_give_small_slices(num_blocks, wanted, num_rounds):
    slices = drawn_slices(np.arange(num_blocks), wanted=wanted, num_rounds=num_rounds, seed=0)
    rows = np.concatenate(slices)
    assert len(np.unique(rows)) == len(rows) <= min(wanted, num_blocks)
    assert len({len(own) for own in slices}) == 1
    assert len(slices[0]) >= 1


def test_fewer_blocks_than_rounds_is_an_error():
    with pytest.raises(UsageError, match="2 of 9 blocks for 3 rounds"):
        drawn_slices(np.arange(9), wanted=2, num_rounds=3, seed=0)


def test_padding_of_batches_sorted_by_length():
    assert num_padded_tokens(np.array([1, 5, 2, 4]), 2) == 2 * 5 + 2 * 2
    assert num_padded_tokens(np.array([3, 1, 1]), 2) == 2 * 3 + 1


def test_documents_are_read_from_a_folder_or_a_file(tmp_path):
    lines = json.dumps({"title": "T", "paragraphs": ["a  b", "c"]}) + "\n"
    (tmp_path / "squad").mkdir()
    with gzip.open(tmp_path / "squad" / "documents.jsonl.gz", "wt") as file:
        file.write(lines)
    (tmp_path / "plain.jsonl").write_text(lines)
    for data in (tmp_path, tmp_path / "plain.jsonl"):
        assert read_documents(data) == [Document("T", ("a b", "c"))]


@pytest.mark.parametrize("text", ["not json\n", '{"text": "t"}\n'])
def test_what_is_no_corpus_is_named(tmp_path, text):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(SourceError, match=r"x\.jsonl.*--data"):
        read_documents(tmp_path / "x.jsonl")
    with pytest.raises(SourceError, match="no such file"):
        read_documents(tmp_path / "nothing")
