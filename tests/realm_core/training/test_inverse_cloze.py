from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_core.training.featurization import FeaturizerConfig, SpecialTokens
from realm_core.training.inverse_cloze import InverseClozeExample, inverse_cloze_batch, inverse_cloze_example
from realm_core.training.masking import SkipReason

SPECIAL = SpecialTokens(cls_id=101, sep_id=102, mask_id=103, pad_id=0)
BODY = (10, 11, 12, 20, 21, 30)
SENTENCES = {(10, 11, 12): (20, 21, 30), (20, 21): (10, 11, 12, 30), (30,): (10, 11, 12, 20, 21)}


def example(seed: int, removal_rate: float) -> InverseClozeExample:
    made = inverse_cloze_example(
        title_token_ids=np.array([1, 2], dtype=np.uint16),
        body_token_ids=np.array(BODY, dtype=np.uint16),
        sentence_starts=(0, 3, 5),
        rng=np.random.default_rng(seed),
        removal_rate=removal_rate,
    )
    assert isinstance(made, InverseClozeExample)
    return made


@given(st.integers(0, 10_000))
def test_a_removed_sentence_is_gone_and_the_rest_is_whole(seed: int) -> None:
    made = example(seed, 1.0)
    assert made.is_removed
    assert made.title_token_ids == (1, 2)
    assert made.body_token_ids == SENTENCES[made.query_token_ids]


@given(st.integers(0, 10_000))
def test_a_kept_sentence_leaves_the_block_as_it_was(seed: int) -> None:
    made = example(seed, 0.0)
    assert not made.is_removed
    assert made.query_token_ids in SENTENCES
    assert made.body_token_ids == BODY


def test_every_sentence_is_drawn_and_nine_of_ten_are_removed() -> None:
    made = [example(seed, 0.9) for seed in range(2000)]
    assert 0.88 < sum(m.is_removed for m in made) / 2000 < 0.92
    for sentence in SENTENCES:
        assert 0.29 < sum(m.query_token_ids == sentence for m in made) / 2000 < 0.38


@pytest.mark.parametrize("starts", [(), (0,)])
def test_a_block_of_one_sentence_is_skipped(starts: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    skipped = inverse_cloze_example(title_token_ids=(1,), body_token_ids=(5, 6), sentence_starts=starts, rng=rng)
    assert skipped is SkipReason.SINGLE_SENTENCE


def test_the_arrays_of_a_batch() -> None:
    config = FeaturizerConfig(query_length_tokens=4, block_length_tokens=8)
    examples = [InverseClozeExample((7, 8, 9), (1,), (5, 6), True), InverseClozeExample((7,), (), (7, 4), False)]
    batch = inverse_cloze_batch(examples, config=config, special=SPECIAL)
    assert batch.query_ids_BL.tolist() == [[101, 7, 8, 102], [101, 7, 102, 0]]
    assert batch.query_is_token_BL.tolist() == [[True] * 4, [True, True, True, False]]
    assert batch.block_ids_BL.tolist() == [[101, 1, 102, 5, 6, 102, 0, 0], [101, 102, 7, 4, 102, 0, 0, 0]]
    assert batch.block_token_types_BL.tolist() == [[0, 0, 0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0, 0, 0]]
    assert batch.is_removed_B.tolist() == [True, False]
