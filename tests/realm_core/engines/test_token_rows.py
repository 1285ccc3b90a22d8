import numpy as np
import pytest

from realm_core.engines.buckets import Batch
from realm_core.engines.packing import Pack
from realm_core.engines.token_rows import check_rows, packed_tokens, padded_tokens, rows_of_blocks, rows_of_queries
from realm_core.errors import BlockError


def ids(*values):
    return np.array(values, dtype=np.uint16)


BLOCKS = rows_of_blocks([ids(10), ids(), ids(11, 12)], [ids(20, 21), ids(22), ids()], 2, 3)


def test_a_block_is_cls_title_sep_body_sep():
    assert BLOCKS.ids.tolist() == [2, 10, 3, 20, 21, 3, 2, 3, 22, 3, 2, 11, 12, 3, 3]
    assert BLOCKS.lengths_R.tolist() == [6, 4, 5]
    assert BLOCKS.first_lengths_R.tolist() == [3, 2, 4]
    assert BLOCKS.starts_R.tolist() == [0, 6, 10]


def test_a_query_is_of_one_type():
    rows = rows_of_queries([ids(7, 8), ids()], 2, 3)
    assert rows.ids.tolist() == [2, 7, 8, 3, 2, 3]
    assert rows.lengths_R.tolist() == rows.first_lengths_R.tolist() == [4, 2]


def test_a_pack_holds_its_rows_one_after_the_other_and_dummies_at_the_end():
    tokens = packed_tokens(BLOCKS, BLOCKS.starts_R, Pack(rows=np.array([2, 0]), num_tokens=11, capacity_tokens=13))
    assert tokens.ids_T.tolist() == [2, 11, 12, 3, 3, 2, 10, 3, 20, 21, 3, 0, 0]
    assert tokens.positions_T.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 0, 0]
    assert tokens.types_T.tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 0, 0]
    assert tokens.lengths_B.tolist() == [5, 6]
    assert tokens.ids_T.dtype == np.uint16


def test_a_batch_is_padded_to_its_shape():
    token_ids, first_lengths, lengths = padded_tokens(
        BLOCKS, BLOCKS.starts_R, Batch(indices=np.array([1]), num_rows=2, length_tokens=5)
    )
    assert token_ids.tolist() == [[2, 3, 22, 3, 0], [0, 0, 0, 0, 0]]
    assert first_lengths.tolist() == [[2], [1]]
    assert lengths.tolist() == [[4], [1]]


def test_no_rows():
    rows = rows_of_blocks([], [], 2, 3)
    check_rows(rows, longest_tokens=8, vocab_size=30)
    assert (rows.ids.size, rows.lengths_R.size) == (0, 0)


def test_empty_arrays_of_any_type_are_no_tokens():
    rows = rows_of_queries([np.array([]), ids(7)], 2, 3)
    check_rows(rows, longest_tokens=8, vocab_size=30)
    assert rows.ids.tolist() == [2, 3, 2, 7, 3]


def test_titles_without_bodies_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        rows_of_blocks([ids(1)], [], 2, 3)


def test_rows_that_are_too_long_are_all_named():
    with pytest.raises(BlockError, match=r"rows 0, 2 of 3: 6 tokens .* expected at most 4") as caught:
        check_rows(BLOCKS, longest_tokens=4, vocab_size=30)
    assert caught.value.rows == (0, 2)


@pytest.mark.parametrize("token", [22, 40_000, 70_000, -1])
def test_a_token_outside_the_vocabulary_is_named_with_its_row(token):
    rows = rows_of_queries([ids(7), np.array([9, token]), ids()], 2, 3)
    with pytest.raises(BlockError, match=f"row 1 of 3: token id {token}; expected ids from 0 to 21") as caught:
        check_rows(rows, longest_tokens=8, vocab_size=22)
    assert caught.value.rows == (1,)


def test_of_many_rows_the_first_ten_are_named():
    rows = rows_of_queries([ids(99)] * 12, 2, 3)
    with pytest.raises(BlockError, match="9 and 2 more of 12") as caught:
        check_rows(rows, longest_tokens=8, vocab_size=22)
    assert caught.value.rows == tuple(range(12))
