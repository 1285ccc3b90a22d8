from __future__ import annotations

import numpy as np
import pytest

from benchmarks.clustered import ROWS_PER_CHUNK, ClusteredEmbeddings

CORPUS = ClusteredEmbeddings(num_rows=2 * ROWS_PER_CHUNK + 100, dimension=8, num_clusters=50, seed=3)


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, 1), (5, 5), (ROWS_PER_CHUNK - 3, ROWS_PER_CHUNK + 4), (10, 2 * ROWS_PER_CHUNK + 100)],
)
def test_any_range_of_rows_is_that_of_the_whole(start, stop):
    whole = CORPUS.rows(0, CORPUS.num_rows)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(CORPUS.rows(start, stop), whole[start:stop])


def test_rows_do_not_depend_on_how_many_follow_in_other_chunks():
    more = ClusteredEmbeddings(num_rows=5 * ROWS_PER_CHUNK, dimension=8, num_clusters=50, seed=3)
    np.testing.assert_array_equal(more.rows(0, 2 * ROWS_PER_CHUNK), CORPUS.rows(0, 2 * ROWS_PER_CHUNK))


def test_a_seed_is_a_corpus():
    again, other = (ClusteredEmbeddings(num_rows=100, dimension=8, num_clusters=5, seed=seed) for seed in (3, 4))
    same = ClusteredEmbeddings(num_rows=100, dimension=8, num_clusters=5, seed=3)
    np.testing.assert_array_equal(again.rows(0, 100), same.rows(0, 100))
    assert not (again.rows(0, 100) == other.rows(0, 100)).any()
    assert not (again.rows(0, 100) == again.queries(100)).any()


def test_more_queries_begin_with_fewer():
    np.testing.assert_array_equal(CORPUS.queries(7)[:3], CORPUS.queries(3))


def test_rows_lie_around_their_centres():
    corpus = ClusteredEmbeddings(num_rows=20_000, dimension=64, num_clusters=4, noise=0.25)
    rows = corpus.rows(0, 20_000)
    distances = np.linalg.norm(rows[:, None] - corpus.centres, axis=2)
    assert np.bincount(distances.argmin(axis=1)).min() > 4_700
    assert distances.min(axis=1).mean() == pytest.approx(0.25 * 8, rel=0.02)


def test_by_default_clusters_are_as_large_as_those_of_the_full_corpus():
    assert len(ClusteredEmbeddings(num_rows=100_000).centres) == 449
    assert len(ClusteredEmbeddings(num_rows=13_353_718, dimension=1).centres) == 60_000


def test_rows_beyond_the_end_are_an_error():
    with pytest.raises(ValueError, match="rows 0 to 101 of 100"):
        ClusteredEmbeddings(num_rows=100).rows(0, 101)
