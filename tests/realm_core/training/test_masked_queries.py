from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_core.training.masked_queries import (
    MASKINGS,
    Masking,
    masked_query,
    random_positions,
    random_span_positions,
)
from realm_core.training.masking import MaskedQuery, SkipReason

MASK = 3


def block(*sentence_lengths: int, spans: tuple[tuple[int, int], ...] = ()) -> dict[str, Any]:
    """A body of the tokens 100, 101, … in sentences of these lengths."""
    return {
        "body_token_ids": list(range(100, 100 + sum(sentence_lengths))),
        "sentence_starts": np.cumsum([0, *sentence_lengths[:-1]]).tolist(),
        "salient_span_starts": [start for start, _ in spans],
        "salient_span_stops": [stop for _, stop in spans],
    }


def query(of: dict[str, Any], masking: Masking, seed: int = 0, **limits: int) -> MaskedQuery | SkipReason:
    limits = {"max_query_tokens": 30, "max_masks": 10, **limits}
    return masked_query(of, masking, np.random.default_rng(seed), mask_id=MASK, **limits)


def runs(positions: list[int]) -> list[int]:
    """Lengths of the runs of neighbours among ascending positions."""
    breaks = np.flatnonzero(np.diff(positions) > 1) + 1
    return [len(run) for run in np.split(np.array(positions), breaks)]


@pytest.mark.parametrize("masking", MASKINGS)
def test_putting_the_targets_back_gives_one_sentence_of_the_block(masking: Masking) -> None:
    of = block(20, 30, 10, spans=((3, 5), (22, 24), (55, 56)))
    bodies = [of["body_token_ids"][a:b] for a, b in ((0, 20), (20, 50), (50, 60))]
    seen = set()
    for seed in range(60):
        made = query(of, masking, seed)
        assert isinstance(made, MaskedQuery)
        restored = list(made.token_ids)
        for position, target in zip(made.mask_positions, made.target_ids, strict=True):
            assert restored[position] == MASK
            restored[position] = target
        seen.add(bodies.index(restored))
    assert seen == {0, 1, 2}


@pytest.mark.parametrize(("num_tokens", "num_masks"), [(2, 1), (10, 2), (40, 6), (100, 10)])
def test_random_masks_hide_15_percent_at_least_one_and_at_most_ten(num_tokens: int, num_masks: int) -> None:
    for masking in ("random-uniform", "random-span"):
        made = query(block(num_tokens), masking, max_query_tokens=num_tokens)  # type: ignore[arg-type]
        assert isinstance(made, MaskedQuery)
        assert len(made.mask_positions) == num_masks


@given(st.integers(1, 80), st.integers(0, 1000), st.integers(1, 10))
def test_random_masks_are_distinct_ascending_and_inside(num_tokens: int, seed: int, max_masks: int) -> None:
    for draw in (random_positions, random_span_positions):
        positions = draw(num_tokens, np.random.default_rng(seed), max_masks=max_masks)
        assert positions == sorted(set(positions))
        assert 1 <= len(positions) <= max_masks
        assert 0 <= positions[0] <= positions[-1] < num_tokens


def test_every_piece_is_masked_equally_often_by_uniform_masks() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(p for _ in range(3000) for p in random_positions(20, rng, max_masks=10))
    assert len(counts) == 20
    assert min(counts.values()) > 0.85 * 3000 * 3 / 20


def test_random_spans_are_longer_than_chance_makes_them() -> None:
    """Of 10 masked pieces in 67 a geometric span with p = 0.2 takes several; single pieces are seldom neighbours."""
    rng = np.random.default_rng(0)
    spans = [length for _ in range(300) for length in runs(random_span_positions(67, rng, max_masks=10))]
    alone = [length for _ in range(300) for length in runs(random_positions(67, rng, max_masks=10))]
    assert 2.5 < np.mean(spans) < 4.5
    assert np.mean(alone) < 1.4


def test_a_salient_span_is_masked_whole_and_a_block_without_one_is_skipped() -> None:
    made = query(block(8, spans=((2, 5),)), "salient-span")
    assert isinstance(made, MaskedQuery)
    assert made.mask_positions == (2, 3, 4)
    assert query(block(8), "salient-span") is SkipReason.NO_SALIENT_SPAN


def test_random_masks_need_no_salient_span_but_two_word_pieces() -> None:
    assert isinstance(query(block(8), "random-uniform"), MaskedQuery)
    assert query(block(1), "random-uniform") is SkipReason.SENTENCE_TOO_SHORT
    assert query(block(1), "random-span") is SkipReason.SENTENCE_TOO_SHORT


def test_random_masks_stay_within_the_query_length() -> None:
    for seed in range(20):
        made = query(block(200), "random-uniform", seed, max_query_tokens=12)
        assert isinstance(made, MaskedQuery)
        assert len(made.token_ids) == 12
        assert max(made.mask_positions) < 12
