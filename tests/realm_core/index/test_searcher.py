from __future__ import annotations

import numpy as np
import pytest

from realm_core.errors import GateError, QueryError
from realm_core.index.searcher import SearchHits, no_hits, require_searchable, validate_queries

QUERIES = np.ones((2, 4), dtype=np.float32)


def with_value(value: float, row: int) -> np.ndarray:
    embeddings = np.ones((3, 4), dtype=np.float32)
    embeddings[row, 1] = value
    return embeddings


def test_valid_queries_pass_as_contiguous_float32():
    validated = validate_queries(np.ones((4, 2)).T, dimension=4, num_hits=1)
    assert validated.dtype == np.float32
    assert validated.flags.c_contiguous
    assert validated.shape == (2, 4)


def test_an_empty_batch_is_valid():
    assert validate_queries(np.empty((0, 4), np.float32), dimension=4, num_hits=3).shape == (0, 4)


@pytest.mark.parametrize(
    ("queries", "num_hits", "found"),
    [
        (QUERIES, 0, "num_hits = 0"),
        (QUERIES[:, :3], 1, r"shape \[2, 3\]"),
        (QUERIES[0], 1, r"shape \[4\]"),
        (QUERIES.astype(np.int64), 1, "type int64"),
        (with_value(np.nan, 1), 1, "NaN or infinity in 1 of 3 queries, the first at row 1"),
        (with_value(-np.inf, 2), 1, "first at row 2"),
        (with_value(1.0, 0).astype(np.float64) * 1e300, 1, "NaN or infinity in 3 of 3"),
    ],
)
def test_queries_without_meaning_are_refused_and_named(queries, num_hits, found):
    with pytest.raises(QueryError, match=found) as raised:
        validate_queries(queries, dimension=4, num_hits=num_hits, where="shard 7")
    assert raised.value.where == "shard 7"
    assert raised.value.expected
    assert raised.value.action


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_embedding_that_is_not_finite_is_refused_with_its_row(value):
    with pytest.raises(GateError, match="row 2"):
        require_searchable(with_value(value, 2), where="shard")


def test_the_row_of_a_bad_embedding_is_right_beyond_the_first_step_of_the_check():
    embeddings = np.ones((70_000, 1), dtype=np.float32)
    embeddings[69_999] = np.nan
    with pytest.raises(GateError, match="row 69999"):
        require_searchable(embeddings, where="shard")


@pytest.mark.parametrize(
    "embeddings", [np.ones((0, 4), np.float32), np.ones((3, 4), np.float16), np.ones(4, np.float32)]
)
def test_embeddings_of_another_shape_or_type_are_refused(embeddings):
    with pytest.raises(GateError, match="float32 embeddings of shape"):
        require_searchable(embeddings, where="shard")


def test_padding_adds_missing_hits_and_never_cuts():
    hits = SearchHits(np.array([[2.0, 1.0]], np.float32), np.array([[4, 9]]))
    assert hits.padded(3).rows_BK.tolist() == [[4, 9, -1]]
    assert hits.padded(3).relevances_BK.tolist() == [[2.0, 1.0, -np.inf]]
    assert hits.padded(1).rows_BK.tolist() == [[4, 9]]


def test_no_hits_have_the_types_of_hits():
    hits = no_hits(2, 3)
    assert (hits.num_queries, hits.num_hits) == (2, 3)
    assert hits.relevances_BK.dtype == np.float32
    assert hits.rows_BK.dtype == np.int64
    assert np.isneginf(hits.relevances_BK).all()
    assert (hits.rows_BK == -1).all()
