import numpy as np
import pytest
from support.snapshots import DIMENSION, exact_block_ids

from realm_core.errors import QueryError
from realm_core.retrieval.snapshot_search import LocalSnapshotSearch
from realm_core.storage.block_store import BlockRecords


@pytest.fixture
def search(synthetic_store):
    synthetic_store.publish(seed=0, step=3, num_shards=3)
    search = LocalSnapshotSearch(synthetic_store.store)
    yield search
    search.close()


def queries(count=5):
    return np.random.default_rng(4).normal(size=(count, DIMENSION)).astype(np.float32)


def test_shards_side_by_side_find_what_exact_search_over_all_rows_finds(search, synthetic_store):
    result = search.search(queries(), 9)
    np.testing.assert_array_equal(result.block_ids_BK, exact_block_ids(synthetic_store.embeddings(0), queries(), 9))
    assert result.encoder_step == 3


@pytest.mark.parametrize("num_queries", [0, 1, 700])
def test_any_number_of_queries(search, num_queries):
    assert search.search(queries(num_queries), 4).block_ids_BK.shape == (num_queries, 4)


def test_blocks_are_left_out_by_uid_and_those_behind_move_up(search, synthetic_store):
    records = BlockRecords(synthetic_store.store, synthetic_store.corpus)
    plain = search.search(queries(), 7)
    uids = [set(records.uids(ids_K[:query]).tolist()) for query, ids_K in enumerate(plain.block_ids_BK)]
    found = search.search(queries(), 3, exclude_uids=uids)
    for query in range(5):
        np.testing.assert_array_equal(found.block_ids_BK[query], plain.block_ids_BK[query, query : query + 3])
        np.testing.assert_array_equal(found.relevances_BK[query], plain.relevances_BK[query, query : query + 3])


def test_leaving_out_the_uid_of_a_block_that_is_not_found_changes_nothing(search):
    found = search.search(queries(), 3, exclude_uids=[[b"\xff" * 20]] * 5)
    np.testing.assert_array_equal(found.block_ids_BK, search.search(queries(), 3).block_ids_BK)


def test_all_blocks_asked_for_and_one_left_out_is_padded(search, synthetic_store):
    records = BlockRecords(synthetic_store.store, synthetic_store.corpus)
    first = search.search(queries(1), 1).block_ids_BK[0]
    found = search.search(queries(1), 400, exclude_uids=[records.uids(first).tolist()])
    assert found.block_ids_BK[0, -1] == -1
    assert sorted(found.block_ids_BK[0, :-1]) == sorted(set(range(400)) - {int(first[0])})


@pytest.mark.parametrize(
    ("query", "num_hits", "message"),
    [
        (np.full((2, DIMENSION), np.inf), 3, "NaN or infinity"),
        (np.ones((2, DIMENSION + 1)), 3, f"\\[queries, {DIMENSION}\\]"),
        (np.ones(DIMENSION), 3, "wrap a single query"),
        (np.ones((2, DIMENSION)), 0, "num_hits = 0"),
        (np.ones((2, DIMENSION), np.int64), 3, "floating point"),
    ],
)
def test_queries_without_meaning_are_refused(search, query, num_hits, message):
    with pytest.raises(QueryError, match=message):
        search.search(query, num_hits)
