from __future__ import annotations

import pickle
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_core.errors import TrainingError, UsageError
from realm_core.training.featurization import (
    NULL_DOCUMENT,
    CandidateBlock,
    FeaturizerConfig,
    PretrainBatch,
    SpecialTokens,
    block_arrays,
    pretrain_batch,
    query_arrays,
    select_candidates,
)
from realm_core.training.masking import MaskedQuery, SkipReason, mask_span

CLS, SEP, MASK, PAD = 101, 102, 103, 999
SPECIAL = SpecialTokens(cls_id=CLS, sep_id=SEP, mask_id=MASK, pad_id=PAD)
CONFIG = FeaturizerConfig(query_length_tokens=8, block_length_tokens=12, num_candidates=2, max_masks=3)
QUERY = MaskedQuery((11, MASK, MASK, 14), (1, 2), (12, 13))
BLOCK = CandidateBlock(7, (21,), np.array([31, 32], dtype=np.uint16))


def without_padding(ids: np.ndarray, is_token: np.ndarray) -> list[int]:
    assert (ids[~is_token] == PAD).all()
    return ids[is_token].tolist()


def small_batch() -> PretrainBatch:
    return pretrain_batch([QUERY], [[NULL_DOCUMENT, BLOCK]], config=CONFIG, special=SPECIAL)


def test_the_query_input() -> None:
    batch = small_batch()
    assert without_padding(batch.query_ids_BL[0], batch.query_is_token_BL[0]) == [CLS, 11, MASK, MASK, 14, SEP]


def test_the_candidate_input_and_its_types() -> None:
    batch = small_batch()
    assert batch.candidate_ids_BNL[0, 1].tolist() == [CLS, 21, SEP, 31, 32, SEP] + [PAD] * 6
    assert batch.candidate_token_types_BNL[0, 1].tolist() == [0, 0, 0, 1, 1, 1] + [0] * 6
    assert batch.candidate_is_token_BNL[0, 1].tolist() == [True] * 6 + [False] * 6


def test_the_joint_input_and_its_types() -> None:
    batch = small_batch()
    ids, is_token = batch.joint_ids_BNL[0, 1], batch.joint_is_token_BNL[0, 1]
    assert without_padding(ids, is_token) == [CLS, 11, MASK, MASK, 14, SEP, 21, SEP, 31, 32, SEP]
    assert batch.joint_token_types_BNL[0, 1][is_token].tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]


def test_the_null_document_has_markers_only() -> None:
    batch = small_batch()
    assert batch.candidate_block_ids_BN.tolist() == [[-1, 7]]
    assert without_padding(batch.candidate_ids_BNL[0, 0], batch.candidate_is_token_BNL[0, 0]) == [CLS, SEP, SEP]
    joint = without_padding(batch.joint_ids_BNL[0, 0], batch.joint_is_token_BNL[0, 0])
    assert joint == [CLS, 11, MASK, MASK, 14, SEP, SEP, SEP]


def test_masks_are_at_their_positions_in_query_and_joint_input() -> None:
    batch = small_batch()
    assert batch.mask_positions_BM.tolist() == [[2, 3]]
    assert batch.target_ids_BM.tolist() == [[12, 13]]
    assert batch.is_masked_BM.tolist() == [[True, True]]
    positions = batch.mask_positions_BM[batch.is_masked_BM]
    assert (batch.query_ids_BL[0, positions] == MASK).all()
    assert (batch.joint_ids_BNL[0][:, positions] == MASK).all()


def test_types_and_sizes_of_a_batch() -> None:
    queries = [QUERY, MaskedQuery((MASK,), (0,), (9,)), QUERY]
    batch = pretrain_batch(queries, [[NULL_DOCUMENT, BLOCK]] * 3, config=CONFIG, special=SPECIAL)
    shapes = {f.name: getattr(batch, f.name).shape for f in fields(batch)}
    assert shapes["query_ids_BL"] == shapes["query_is_token_BL"] == (3, 8)
    assert shapes["candidate_ids_BNL"] == shapes["candidate_token_types_BNL"] == (3, 2, 12)
    assert shapes["joint_ids_BNL"] == shapes["joint_is_token_BNL"] == (3, 2, 20)
    assert shapes["mask_positions_BM"] == shapes["target_ids_BM"] == shapes["is_masked_BM"] == (3, 2)
    dtypes = {f.name: getattr(batch, f.name).dtype.name for f in fields(batch)}
    assert dtypes["joint_ids_BNL"] == dtypes["joint_token_types_BNL"] == "int32"
    assert dtypes["mask_positions_BM"] == dtypes["target_ids_BM"] == dtypes["candidate_block_ids_BN"] == "int64"
    assert dtypes["is_masked_BM"] == dtypes["joint_is_token_BNL"] == "bool"


def test_rows_do_not_mix() -> None:
    """A row of a batch holds what the row alone holds."""
    queries = [QUERY, MaskedQuery((MASK, 5), (0,), (9,))]
    rows = [[NULL_DOCUMENT, BLOCK], [NULL_DOCUMENT, CandidateBlock(8, (), (1, 2, 3, 4, 5))]]
    both = pretrain_batch(queries, rows, config=CONFIG, special=SPECIAL)
    for b in range(2):
        alone = pretrain_batch(queries[b : b + 1], rows[b : b + 1], config=CONFIG, special=SPECIAL)
        for name in ("query_ids_BL", "candidate_ids_BNL", "joint_ids_BNL", "joint_token_types_BNL"):
            assert np.array_equal(getattr(both, name)[b], getattr(alone, name)[0]), name
    assert both.target_ids_BM.tolist() == [[12, 13], [9, 0]]
    assert both.is_masked_BM.tolist() == [[True, True], [True, False]]


@given(st.integers(0, 400), st.integers(0, 400), st.integers(4, 300))
def test_blocks_are_padded_to_a_multiple_of_32_and_never_beyond_the_limit(
    num_title_tokens: int, num_body_tokens: int, length_tokens: int
) -> None:
    title, body = list(range(num_title_tokens)), list(range(1000, 1000 + num_body_tokens))
    arrays = block_arrays([(title, body), ((), ())], length_tokens=length_tokens, special=SPECIAL)
    width = arrays.ids.shape[1]
    needed = min(num_title_tokens + num_body_tokens + 3, length_tokens)
    assert needed <= width <= length_tokens
    assert width == length_tokens or (width % 32 == 0 and width - needed < 32)
    kept_title = title[: length_tokens - 3]
    kept_body = body[: length_tokens - 3 - len(kept_title)]
    assert arrays.ids[0, : arrays.is_token[0].sum()].tolist() == [CLS, *kept_title, SEP, *kept_body, SEP]


def test_a_long_query_is_cut_and_keeps_its_last_marker() -> None:
    arrays = query_arrays([[1, 2, 3, 4, 5]], length_tokens=5, special=SPECIAL)
    assert arrays.ids.tolist() == [[CLS, 1, 2, 3, SEP]]


def test_a_full_query_and_a_full_candidate_fit_the_joint_input() -> None:
    query = mask_span(range(6), (5, 6), mask_id=MASK, max_query_tokens=CONFIG.max_query_tokens, max_masks=3)
    assert isinstance(query, MaskedQuery)
    full = CandidateBlock(7, (21, 22), tuple(range(31, 38)))
    batch = pretrain_batch([query], [[NULL_DOCUMENT, full]], config=CONFIG, special=SPECIAL)
    assert batch.query_is_token_BL.all()
    assert batch.candidate_is_token_BNL[0, 1].all()
    joint = without_padding(batch.joint_ids_BNL[0, 1], batch.joint_is_token_BNL[0, 1])
    assert joint == [CLS, 0, 1, 2, 3, 4, MASK, SEP, 21, 22, SEP, *range(31, 38), SEP]


def test_a_batch_survives_the_trip_between_processes() -> None:
    batch = small_batch()
    there_and_back = pickle.loads(pickle.dumps(batch, protocol=5))
    assert all(np.array_equal(getattr(batch, f.name), getattr(there_and_back, f.name)) for f in fields(batch))


@pytest.mark.parametrize(
    ("query", "row", "found"),
    [
        (QUERY, [BLOCK, NULL_DOCUMENT], r"row 0 has candidates \[7, -1\]"),
        (QUERY, [NULL_DOCUMENT], r"row 0 has candidates \[-1\]"),
        (MaskedQuery((1,) * 9, (6,), (1,)), [NULL_DOCUMENT, BLOCK], r"masks at \[6\]"),
        (MaskedQuery((1,) * 5, (0, 1, 2, 3), (1,) * 4), [NULL_DOCUMENT, BLOCK], r"masks at \[0, 1, 2, 3\]"),
    ],
)
def test_a_row_that_breaks_the_promise_is_an_error(query: MaskedQuery, row: list[CandidateBlock], found: str) -> None:
    with pytest.raises(TrainingError, match=found):
        pretrain_batch([query], [row], config=CONFIG, special=SPECIAL)


def test_queries_and_candidates_must_be_equally_many() -> None:
    with pytest.raises(TrainingError, match="1 queries with 2 rows"):
        pretrain_batch([QUERY], [[NULL_DOCUMENT, BLOCK]] * 2, config=CONFIG, special=SPECIAL)
    with pytest.raises(TrainingError, match="0 queries with 0 rows"):
        pretrain_batch([], [], config=CONFIG, special=SPECIAL)


def test_a_wrong_configuration_names_every_problem() -> None:
    with pytest.raises(UsageError, match="query_length_tokens=2, num_candidates=1;"):
        FeaturizerConfig(query_length_tokens=2, num_candidates=1)


def chosen(hits: list[int], *, trivial: int, n: int, **uids: object) -> list[int] | SkipReason:
    result = select_candidates(np.array(hits, dtype=np.int64), trivial_block_id=trivial, num_candidates=n, **uids)
    return result if isinstance(result, SkipReason) else result.tolist()


def test_the_null_document_comes_first_and_the_trivial_candidate_not_at_all() -> None:
    assert chosen([4, 9, 2, 7], trivial=9, n=4) == [-1, 4, 2, 7]


def test_without_a_trivial_candidate_the_last_hit_makes_room() -> None:
    assert chosen([4, 9, 2, 7], trivial=5, n=4) == [-1, 4, 9, 2]
    assert chosen([4, 9, 2, 7], trivial=-1, n=4) == [-1, 4, 9, 2]


def test_too_few_hits_are_a_reason_to_skip() -> None:
    assert chosen([4, 9, -1, -1], trivial=9, n=3) is SkipReason.TOO_FEW_CANDIDATES
    assert chosen([4, 9, -1, -1], trivial=5, n=3) == [-1, 4, 9]


def test_copies_of_a_text_are_dropped_by_uid() -> None:
    hits, uids = [4, 9, 2, 7, 8], [b"own", b"a", b"a", b"own", b"b"]
    assert chosen(hits, trivial=7, n=3, hit_uids=uids, trivial_uid=b"own") == [-1, 9, 8]
    assert chosen(hits, trivial=7, n=4, hit_uids=uids) == [-1, 4, 9, 8]


def test_without_a_null_document_the_best_hit_is_first() -> None:
    hits = np.array([4, 7, 9, 2])
    chosen = select_candidates(hits, trivial_block_id=7, num_candidates=3, has_null_document=False)
    assert chosen.tolist() == [4, 9, 2]
    skipped = select_candidates(hits, trivial_block_id=7, num_candidates=4, has_null_document=False)
    assert skipped is SkipReason.TOO_FEW_CANDIDATES


def test_a_configuration_without_a_null_document_refuses_one() -> None:
    config = FeaturizerConfig(query_length_tokens=8, block_length_tokens=12, num_candidates=2, has_null_document=False)
    other = CandidateBlock(8, (21,), (33,))
    batch = pretrain_batch([QUERY], [[BLOCK, other]], config=config, special=SPECIAL)
    assert batch.candidate_block_ids_BN.tolist() == [[7, 8]]
    with pytest.raises(TrainingError, match="none the null document"):
        pretrain_batch([QUERY], [[NULL_DOCUMENT, BLOCK]], config=config, special=SPECIAL)


def test_tokens_are_counted_without_padding() -> None:
    """Query 6; candidates 3 and 6 with their markers; joint inputs 8 and 11."""
    assert small_batch().num_tokens == 6 + (3 + 6) + (8 + 11)
