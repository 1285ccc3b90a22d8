from __future__ import annotations

import numpy as np
import pytest
import torch
from support.tiny_encoders import write_vocabulary

from realm_core.errors import EncoderError, QueryError, UsageError
from realm_core.modeling.retriever import RealmRetriever
from realm_core.modeling.tokenization import RealmTokenizer

BLOCKS = ["the cat sat on a mat.", "paris", "a mat", "the mat sat", "cat cat cat"]
CLS, SEP, THE, CAT, SAT, MAT, PARIS = 2, 3, 5, 6, 7, 11, 13


@pytest.fixture
def tokenizer(tmp_path):
    write_vocabulary(tmp_path)
    return RealmTokenizer(vocab_file=tmp_path / "vocab.txt")


@pytest.fixture
def retriever(tokenizer):
    return RealmRetriever(np.array([block.encode() for block in BLOCKS], dtype=object), tokenizer)


def questions(tokenizer, *texts):
    return tokenizer(list(texts), padding=True, return_tensors="pt")["input_ids"]


def test_blocks_are_joined_with_the_question_and_answers_found_in_them(retriever, tokenizer):
    found, starts, ends, inputs = retriever([3, 1], questions(tokenizer, "the cat"), [[MAT], [MAT, SAT]], max_length=12)
    assert inputs["input_ids"].tolist() == [
        [CLS, THE, CAT, SEP, THE, MAT, SAT, SEP],
        [CLS, THE, CAT, SEP, PARIS, SEP, 0, 0],
    ]
    assert inputs["token_type_ids"][0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert inputs["special_tokens_mask"][1].tolist() == [1, 0, 0, 1, 0, 1, 1, 1]
    assert (found, starts, ends) == ([True, False], [[5, 5], [-1, -1]], [[5, 6], [-1, -1]])
    assert retriever.block_has_answer(inputs, [[MAT], [MAT, SAT]]) == (found, starts, ends)


def test_without_answers_there_are_inputs_only(retriever, tokenizer):
    found, starts, ends, inputs = retriever(torch.tensor([0]), questions(tokenizer, "sat"), None, return_tensors="np")
    assert (found, starts, ends) == (None, None, None)
    assert isinstance(inputs["input_ids"], np.ndarray)


def test_a_batch_of_questions_is_each_question_by_itself(retriever, tokenizer):
    texts, ids, answers = ["the cat", "paris sat on"], [[0, 3, 1], [4, 2, 0]], [[[MAT]], [[CAT], [SAT]]]
    found, starts, ends, inputs = retriever(ids, questions(tokenizer, *texts), answers)
    assert inputs["input_ids"].shape[0] == 6
    for i, text in enumerate(texts):
        alone = retriever(ids[i], questions(tokenizer, text), answers[i])
        assert (found[i], starts[i], ends[i]) == alone[:3]
        rows, width = inputs["input_ids"][3 * i : 3 * i + 3], alone[3]["input_ids"].shape[1]
        assert torch.equal(rows[:, :width], alone[3]["input_ids"])
        assert (rows[:, width:] == 0).all()


@pytest.mark.parametrize("file", ["block_records.parquet", "block_records.npy"])
def test_it_is_read_back_from_a_directory(retriever, tmp_path, tokenizer, file):
    retriever.save_pretrained(tmp_path / "saved")
    if file.endswith("npy"):
        (tmp_path / "saved" / "block_records.parquet").unlink()
        records = np.array([block.encode() for block in BLOCKS], dtype=object)
        np.save(tmp_path / "saved" / file, records, allow_pickle=True)
    loaded = RealmRetriever.from_pretrained(tmp_path / "saved")
    assert loaded.block_records.texts(range(5)) == BLOCKS
    question = questions(tokenizer, "cat")
    assert torch.equal(
        loaded([0, 1], question, None)[3]["input_ids"], retriever([0, 1], question, None)[3]["input_ids"]
    )


def test_a_directory_without_block_records_is_named(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=r"no block records; expected block_records.parquet or block_records.npy"):
        RealmRetriever.from_pretrained(tmp_path)


def test_over_a_store_it_reads_the_bodies(synthetic_store, tokenizer):
    retriever = RealmRetriever.from_store(synthetic_store.store.url, tokenizer)
    inputs = retriever([7, 399], questions(tokenizer, "cat"), None)[3]
    assert inputs["input_ids"].shape[0] == len(retriever.block_records.texts([7, 399]))


def test_wrong_calls_are_named(retriever, tokenizer):
    question = questions(tokenizer, "cat")
    with pytest.raises(QueryError, match="block id 5"):
        retriever([5], question, None)
    with pytest.raises(UsageError, match="without tokens"):
        retriever([0], question, [[]])
    with pytest.raises(ValueError, match="1 questions with the block ids of 2"):
        retriever([[0], [1]], question, None)
