from __future__ import annotations

import json

import pytest
import torch
from support.tiny_encoders import VOCAB_SIZE, write_vocabulary
from transformers import AutoTokenizer

import realm_core.modeling  # noqa: F401 - registers the tokenizer
from realm_core.errors import EncoderError
from realm_core.modeling.configuration import RealmConfig
from realm_core.modeling.tokenization import RealmTokenizer, RealmTokenizerFast, read_vocabulary

TEXT = "The cats sat"
TEXT_IDS = [2, 5, 6, 8, 7, 3]


@pytest.fixture
def directory(tmp_path):
    write_vocabulary(tmp_path)
    return tmp_path


def test_every_way_of_giving_the_vocabulary_is_the_same(directory):
    file = directory / "vocab.txt"
    for tokenizer in (
        RealmTokenizer(str(file)),
        RealmTokenizer(vocab_file=file),
        RealmTokenizer(vocab=read_vocabulary(file)),
        RealmTokenizerFast.from_pretrained(directory),
    ):
        assert tokenizer(TEXT)["input_ids"] == TEXT_IDS
        assert len(tokenizer) == VOCAB_SIZE


def test_no_vocabulary_is_an_error_and_not_a_tokenizer_of_unknown_words():
    with pytest.raises(EncoderError, match="no vocabulary"):
        RealmTokenizer()


def test_truncation_and_padding_of_a_tokenizer_json_are_off(directory):
    RealmTokenizer(vocab_file=directory / "vocab.txt").save_pretrained(directory)
    settings = json.loads((directory / "tokenizer.json").read_text())
    settings["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    settings["padding"] = {
        "strategy": {"Fixed": 128},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    (directory / "tokenizer.json").write_text(json.dumps(settings))
    tokenizer = RealmTokenizer.from_pretrained(directory)
    assert tokenizer(TEXT)["input_ids"] == TEXT_IDS
    assert tokenizer.backend_tokenizer.truncation is None
    assert tokenizer.backend_tokenizer.padding is None


def test_auto_tokenizer_finds_it_by_the_configuration(directory):
    RealmConfig().save_pretrained(directory)
    assert isinstance(AutoTokenizer.from_pretrained(directory), RealmTokenizer)


def test_candidates_are_padded_to_max_length(directory):
    tokenizer = RealmTokenizer.from_pretrained(directory)
    batch = tokenizer.batch_encode_candidates([["the cat", "a mat."], ["sat", "on"]], max_length=6, return_tensors="pt")
    assert batch["input_ids"].tolist() == [
        [[2, 5, 6, 3, 0, 0], [2, 10, 11, 12, 3, 0]],
        [[2, 7, 3, 0, 0, 0], [2, 9, 3, 0, 0, 0]],
    ]
    assert batch["attention_mask"].sum(-1).tolist() == [[4, 5], [3, 3]]
    assert batch["token_type_ids"].abs().sum() == 0
    assert isinstance(batch["input_ids"], torch.Tensor)


def test_candidate_pairs_have_two_token_types_and_may_be_lists(directory):
    tokenizer = RealmTokenizer.from_pretrained(directory)
    batch = tokenizer.batch_encode_candidates([["the cat"]], text_pair=[["sat"]], max_length=7)
    assert batch["input_ids"] == [[[2, 5, 6, 3, 7, 3, 0]]]
    assert batch["token_type_ids"] == [[[0, 0, 0, 0, 1, 1, 0]]]


def test_candidates_are_cut_only_when_asked(directory):
    tokenizer = RealmTokenizer.from_pretrained(directory)
    cut = tokenizer.batch_encode_candidates([[TEXT]], max_length=4, truncation=True, return_tensors="pt")
    assert cut["input_ids"].tolist() == [[[2, 5, 6, 3]]]
    with pytest.raises(ValueError, match="tensor"):
        tokenizer.batch_encode_candidates([[TEXT, "a"]], max_length=4, return_tensors="pt")


def test_windows_line_ends_and_a_missing_last_newline_change_no_token(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\r\n[UNK]\r\nthe")
    assert read_vocabulary(tmp_path / "vocab.txt") == {"[PAD]": 0, "[UNK]": 1, "the": 2}


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00"])
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path, content):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(EncoderError, match="one token a line"):
        read_vocabulary(tmp_path / "vocab.txt")
