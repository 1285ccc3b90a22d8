from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from realm_core.index.searcher import SearchHits
from realm_core.index.settling import largest_norm, num_candidates, pair_relevances, settle

small_vectors = st.integers(1, 37).flatmap(
    lambda width: st_numpy.arrays(np.float32, (2, width), elements=st.floats(-8, 8, width=32))
)


def test_relevance_by_hand():
    embeddings = np.array([[1, 2, 3], [0.5, 0, -4]], np.float32)
    queries = np.array([[2, 1, 0], [1, 1, 1]], np.float32)
    relevances = pair_relevances(embeddings, queries, np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    assert relevances.tolist() == [4.0, 6.0, 1.0, -3.5]


@given(vectors=small_vectors)
def test_relevance_is_the_inner_product(vectors):
    row, query = vectors
    found = pair_relevances(row[None], query[None], np.array([0]), np.array([0]))[0]
    exact = float(np.dot(row.astype(np.float64), query.astype(np.float64)))
    bound = len(row) * np.finfo(np.float32).eps * float(np.linalg.norm(row) * np.linalg.norm(query))
    assert abs(found - exact) <= bound + 1e-30


@given(vectors=small_vectors, copies=st.integers(1, 300))
def test_the_bits_do_not_depend_on_the_pairs_around(vectors, copies):
    row, query = vectors
    others = np.full_like(row, 3.0)
    embeddings = np.stack([others] * copies + [row, others])
    rows = np.append(np.arange(copies), copies)
    alone = pair_relevances(row[None], query[None], np.array([0]), np.array([0]))
    among = pair_relevances(embeddings, query[None], rows, np.zeros(copies + 1, np.int64))
    assert among[-1] == alone[0]


def test_candidates_leave_room_for_ties_but_never_exceed_the_rows():
    assert num_candidates(10, 1_000) == 36
    assert num_candidates(10, 12) == 12


def test_largest_norm_spans_the_steps():
    embeddings = np.zeros((2_100_000, 1), np.float32)
    embeddings[2_099_999] = -7.0
    assert largest_norm(embeddings) == 7.0


def test_rows_that_were_not_proposed_are_found_when_they_tie():
    """40 equal rows, and a product that proposed the 28 last of them: the smallest rows must come out."""
    embeddings = np.tile(np.array([[1.0, 2.0]], np.float32), (40, 1))
    queries = np.array([[1.0, 1.0]], np.float32)
    rows = np.arange(39, 11, -1)[None]
    candidates = SearchHits(np.full((1, 28), 3.0, np.float32), rows)
    hits = settle(embeddings, queries, candidates, 6, max_norm=largest_norm(embeddings))
    assert hits.rows_BK.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert hits.relevances_BK.tolist() == [[3.0] * 6]


@pytest.mark.parametrize(("product_error", "rows"), [(0.0, [[2, 3]]), (0.5, [[0, 1]])])
def test_the_error_of_a_reduced_matrix_precision_widens_the_search(product_error, rows):
    """Rows 0 and 1 are the best, but the product proposed 2 and 3 with relevances that only such an error explains."""
    embeddings = np.array([[2.0], [1.9], [1.5], [1.4]], np.float32)
    candidates = SearchHits(np.array([[1.5, 1.0]], np.float32), np.array([[2, 3]]))
    hits = settle(embeddings, np.ones((1, 1), np.float32), candidates, 2, max_norm=2.0, product_error=product_error)
    assert hits.rows_BK.tolist() == rows
