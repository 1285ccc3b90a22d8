from __future__ import annotations

import numpy as np
import pytest

from benchmarks.model_cases import (
    BLOCK_TOKENS,
    CASES,
    FULL,
    HEADLINE,
    MASK,
    MAX_MASKS,
    QUICK,
    SEP,
    model_inputs,
    open_qa_inputs,
    spread,
)

TENSOR_CASES = [case for case in CASES if case.class_name != "RealmForOpenQA"]
ENCODER_STEPS = [case for case in TENSOR_CASES if case.class_name == "RealmKnowledgeAugEncoder" and case.mode == "step"]
SIZES = {"full": FULL, "quick": QUICK, "warm-up": FULL.warm_up()}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("case", TENSOR_CASES, ids=lambda case: case.name)
def test_inputs_are_right_padded_and_the_same_on_every_call(case, sizes):
    inputs, again = model_inputs(case, sizes), model_inputs(case, sizes)
    assert all(np.array_equal(inputs[name], again[name]) for name in inputs)
    for prefix in ("", "candidate_") if case.class_name == "RealmScorer" else ("",):
        ids, mask, types = (inputs[prefix + name] for name in ("input_ids", "attention_mask", "token_type_ids"))
        assert ids.shape == mask.shape == types.shape
        assert (np.diff(mask, axis=-1) <= 0).all()
        assert ((ids > 0) == (mask == 1)).all()
        assert (types <= mask).all()
        assert (np.take_along_axis(ids, mask.sum(-1, keepdims=True) - 1, -1) == SEP).all()


def test_blocks_have_the_lengths_of_a_wikipedia():
    lengths = spread(np.random.RandomState(0), BLOCK_TOKENS, 1000, 288)
    assert lengths.min() >= 16
    assert lengths.max() <= 288
    assert round(lengths.mean()) == 195
    assert spread(np.random.RandomState(0), BLOCK_TOKENS, 1000, 100).max() == 100


def test_the_headline_has_no_padding():
    inputs = model_inputs(HEADLINE, FULL)
    assert inputs["input_ids"].shape == (2, 8, 384)
    assert inputs["attention_mask"].all()


@pytest.mark.parametrize("case", ENCODER_STEPS, ids=lambda case: case.name)
def test_masked_words_are_the_same_for_all_candidates(case):
    inputs = model_inputs(case, FULL)
    is_masked_BL = inputs["mlm_mask"] == 1
    assert (is_masked_BL.sum(1) == MAX_MASKS).all()
    assert ((inputs["labels"] >= 0) == is_masked_BL).all()
    assert ((inputs["input_ids"] == MASK) == is_masked_BL[:, None]).all()
    assert inputs["relevance_score"].shape == inputs["input_ids"].shape[:2]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_answers_of_the_reader_lie_in_their_blocks(sizes):
    inputs = model_inputs(next(case for case in CASES if case.name == "reader/step"), sizes)
    assert inputs["input_ids"].shape == (sizes.reader_beam_size, sizes.reader_tokens)
    assert inputs["block_mask"].shape == (sizes.searcher_beam_size, sizes.reader_tokens)
    for words_L, start, end, has_answer in zip(
        inputs["block_mask"], inputs["start_positions"], inputs["end_positions"], inputs["has_answers"], strict=True
    ):
        assert (start >= 0).all() == has_answer
        assert not has_answer or (words_L[start[0] : end[0] + 1].all() and 0 <= end[0] - start[0] <= 2)


def test_open_qa_asks_as_many_questions_as_its_case_and_embeds_every_record():
    for case in (case for case in CASES if case.class_name == "RealmForOpenQA"):
        inputs = open_qa_inputs(case, QUICK)
        assert len(inputs.questions) == case.num_questions
        assert len(inputs.block_records) == len(inputs.block_emb) == QUICK.num_block_records
        assert set(b" ".join(inputs.block_records[:50]).decode().split()) <= set(inputs.vocabulary)
