from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_core.errors import TrainingError
from realm_core.training.masking import (
    MaskedQuery,
    SalientSentence,
    SkipReason,
    choose_span,
    example_order,
    example_rng,
    mask_span,
    salient_sentences,
)

MASK = 103


def test_sentences_with_their_spans_counted_from_the_sentence() -> None:
    found = salient_sentences(20, (0, 5, 12), [(1, 3), (4, 5), (12, 14), (19, 20)])
    assert found == [
        SalientSentence(0, 5, ((1, 3), (4, 5))),
        SalientSentence(12, 20, ((0, 2), (7, 8))),
    ]


def test_a_span_across_two_sentences_is_left_out() -> None:
    assert salient_sentences(10, (0, 5), [(4, 6)]) == []


def test_sentences_are_read_from_arrow_arrays_as_plain_integers() -> None:
    starts = np.array([0, 5], dtype=np.uint16)
    spans = np.array([[6, 8]], dtype=np.uint16)
    (sentence,) = salient_sentences(10, starts, [tuple(span) for span in spans])
    assert sentence == SalientSentence(5, 10, ((1, 3),))
    assert {type(n) for n in (sentence.start, sentence.stop, *sentence.spans[0])} == {int}


def test_all_pieces_of_the_span_are_masked() -> None:
    query = mask_span([11, 12, 13, 14], (1, 3), mask_id=MASK, max_query_tokens=10, max_masks=2)
    assert query == MaskedQuery((11, MASK, MASK, 14), (1, 2), (12, 13))


def test_a_query_is_cut_to_what_fits_behind_the_mask() -> None:
    query = mask_span([11, 12, 13, 14], (1, 3), mask_id=MASK, max_query_tokens=3, max_masks=2)
    assert query == MaskedQuery((11, MASK, MASK), (1, 2), (12, 13))


def test_a_mask_that_would_be_cut_off_is_skipped() -> None:
    skipped = mask_span([11, 12, 13, 14], (1, 3), mask_id=MASK, max_query_tokens=2, max_masks=2)
    assert skipped is SkipReason.MASK_TRUNCATED


def test_a_span_of_too_many_pieces_is_skipped() -> None:
    skipped = mask_span([11, 12, 13, 14], (0, 3), mask_id=MASK, max_query_tokens=10, max_masks=2)
    assert skipped is SkipReason.TOO_MANY_MASKS


@pytest.mark.parametrize("span", [(2, 2), (-1, 1), (3, 5)])
def test_a_span_outside_the_sentence_is_an_error(span: tuple[int, int]) -> None:
    with pytest.raises(TrainingError, match="sentence of 4 tokens"):
        mask_span([11, 12, 13, 14], span, mask_id=MASK, max_query_tokens=10, max_masks=2)


@given(st.lists(st.integers(1000, 2000), min_size=1, max_size=40), st.data())
def test_putting_the_targets_back_gives_the_sentence(tokens: list[int], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(tokens) - 1))
    stop = data.draw(st.integers(start + 1, len(tokens)))
    query = mask_span(tokens, (start, stop), mask_id=MASK, max_query_tokens=40, max_masks=40)
    assert isinstance(query, MaskedQuery)
    restored = np.array(query.token_ids)
    assert set(restored[list(query.mask_positions)]) == {MASK}
    restored[list(query.mask_positions)] = query.target_ids
    assert restored.tolist() == tokens


def test_every_span_is_chosen_equally_often() -> None:
    sentences = salient_sentences(20, (0, 10), [(1, 2), (3, 4), (11, 12)])
    rng = np.random.default_rng(0)
    chosen = [choose_span(sentences, rng) for _ in range(3000)]
    counts = [sum(c == pair for c in chosen) for pair in [(s, span) for s in sentences for span in s.spans]]
    assert sum(counts) == 3000
    assert min(counts) > 900


def test_nothing_to_choose_from_is_a_reason() -> None:
    assert choose_span([], np.random.default_rng(0)) is SkipReason.NO_SALIENT_SPAN


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("num_examples", [0, 1, 7, 24, 101])
def test_each_example_once_per_epoch_and_equally_many_per_rank(num_examples: int, num_ranks: int) -> None:
    for epoch in range(3):
        per_rank = [
            example_order(num_examples, seed=5, epoch=epoch, rank=rank, num_ranks=num_ranks)
            for rank in range(num_ranks)
        ]
        assert {len(order) for order in per_rank} == {num_examples // num_ranks}
        trained_on = np.concatenate(per_rank)
        assert len(set(trained_on.tolist())) == len(trained_on) == num_examples - num_examples % num_ranks
        assert set(trained_on.tolist()) <= set(range(num_examples))


def test_the_order_changes_with_seed_and_epoch_and_with_nothing_else() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return example_order(50, seed=seed, epoch=epoch, rank=0, num_ranks=1).tolist()

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_other_examples_are_dropped_in_other_epochs() -> None:
    everything = set(range(7))
    dropped = [
        everything.difference(*(example_order(7, seed=0, epoch=e, rank=r, num_ranks=4).tolist() for r in range(4)))
        for e in range(20)
    ]
    assert all(len(d) == 3 for d in dropped)
    assert set().union(*dropped) == everything


def test_a_rank_outside_the_world_is_an_error() -> None:
    with pytest.raises(TrainingError, match="rank 2 of 2"):
        example_order(10, seed=0, epoch=0, rank=2, num_ranks=2)


def test_an_examples_generator_depends_on_seed_epoch_and_example() -> None:
    def draw(seed: int, epoch: int, example: int) -> int:
        return int(example_rng(seed=seed, epoch=epoch, example=example).integers(2**62))

    draws = {draw(s, e, x) for s in range(3) for e in range(3) for x in range(3)}
    assert len(draws) == 27
    assert draw(1, 2, 3) == draw(1, 2, 3)
