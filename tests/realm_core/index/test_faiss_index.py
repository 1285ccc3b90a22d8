from __future__ import annotations

import faiss
import numpy as np
import pytest

from realm_core.errors import ArtifactCorruptError, ArtifactMissingError, UsageError
from realm_core.index.faiss_index import INDEX_NAME, FaissSearcher
from realm_core.index.flat import exact_top_k
from realm_core.index.gate import measure_recall
from realm_core.index.setting import SearchSetting
from realm_core.index.settling import pair_relevances
from realm_core.index.specs import ResolvedSpec

SPEC = ResolvedSpec(kind="faiss", num_leaves=32)
SETTING = SearchSetting(leaf_fraction=0.25, num_reordered=100)


@pytest.fixture(scope="module")
def searcher(embeddings):
    return FaissSearcher.build(embeddings, SPEC)


def test_recall_is_high(searcher, embeddings, queries):
    recall = measure_recall(searcher.search(queries, 10, SETTING), exact_top_k(embeddings, queries, 10))
    assert recall[10] > 0.95


def test_relevances_are_inner_products_with_the_float16_vectors(searcher, embeddings, queries):
    hits = searcher.search(queries, 10)
    stored = embeddings.astype(np.float16).astype(np.float32)
    of_queries = np.repeat(np.arange(len(queries)), 10)
    expected = pair_relevances(stored, queries, hits.rows_BK.ravel(), of_queries)
    np.testing.assert_allclose(hits.relevances_BK.ravel(), expected, rtol=1e-5, atol=1e-5)


def test_as_many_candidates_are_reordered_as_the_setting_says(searcher, queries):
    """13 for 11 hits is a factor that FAISS's float32 arithmetic would cut to 12: the 13th may be the best."""
    base = faiss.downcast_index(searcher._index.base_index)
    _, coded_BN = base.search(queries, 13, params=faiss.IVFSearchParameters(nprobe=32))
    _, rows_BN = searcher.look_into_leaves(queries, 11, num_reordered=13, num_leaves=32)
    relevances_BR = searcher.look_everywhere(queries, searcher.num_rows)
    rank = np.argsort(relevances_BR[1], axis=1)
    best_of_13 = np.take_along_axis(coded_BN, np.argsort(np.take_along_axis(rank, coded_BN, 1), axis=1), 1)
    assert np.sort(rows_BN, axis=1).tolist() == np.sort(best_of_13[:, :11], axis=1).tolist()


def test_one_and_two_threads_build_the_same_bytes(embeddings, tmp_path):
    before = faiss.omp_get_max_threads()
    try:
        for num_threads in (1, 2):
            faiss.omp_set_num_threads(num_threads)
            FaissSearcher.build(embeddings, SPEC).save(tmp_path / str(num_threads))
    finally:
        faiss.omp_set_num_threads(before)
    assert (tmp_path / "1" / INDEX_NAME).read_bytes() == (tmp_path / "2" / INDEX_NAME).read_bytes()


def test_training_does_not_warn_of_too_few_points(embeddings, capfd):
    most_leaves = ResolvedSpec(kind="faiss", num_leaves=len(embeddings) // 39)
    FaissSearcher.build(embeddings, most_leaves)
    assert capfd.readouterr().err == ""


def test_too_many_leaves_are_refused(embeddings):
    with pytest.raises(UsageError, match="expected 1 to 76"):
        FaissSearcher.build(embeddings, ResolvedSpec(kind="faiss", num_leaves=77))


def test_an_odd_dimension_is_refused(embeddings):
    with pytest.raises(UsageError, match="31 dimensions"):
        FaissSearcher.build(embeddings[:, :31], SPEC)


def test_a_large_num_hits_looks_into_enough_leaves(searcher, queries):
    hits = searcher.search(queries, 2_500)
    assert (hits.rows_BK >= 0).all()
    assert len(set(hits.rows_BK[0].tolist())) == 2_500


def test_rows_whose_codes_say_nothing_are_found():
    """Zeros have no direction to cluster by: FAISS itself finds none of them."""
    hits = FaissSearcher.build(np.zeros((2_000, 8), np.float32), SPEC).search(np.ones((2, 8), np.float32), 3)
    assert hits.rows_BK.tolist() == [[0, 1, 2]] * 2
    assert hits.relevances_BK.tolist() == [[0.0] * 3] * 2


def test_rows_that_are_all_copies_are_found(embeddings):
    copies = np.tile(embeddings[:1], (2_000, 1))
    hits = FaissSearcher.build(copies, SPEC).search(embeddings[:1], 3)
    rows = hits.rows_BK[0].tolist()
    assert rows == sorted(set(rows))
    assert rows[0] >= 0


def test_a_truncated_file_is_refused(searcher, tmp_path):
    searcher.save(tmp_path)
    index = tmp_path / INDEX_NAME
    index.write_bytes(index.read_bytes()[:-1_000])
    with pytest.raises(ArtifactCorruptError, match=INDEX_NAME):
        FaissSearcher.load(tmp_path)
    index.unlink()
    with pytest.raises(ArtifactMissingError, match=INDEX_NAME):
        FaissSearcher.load(tmp_path)


def test_an_index_of_another_type_or_size_is_refused(searcher, embeddings, tmp_path):
    searcher.save(tmp_path)
    faiss.write_index(faiss.IndexFlatIP(32), str(tmp_path / INDEX_NAME))
    with pytest.raises(ArtifactCorruptError, match="IndexFlatIP"):
        FaissSearcher.load(tmp_path)
    smaller = FaissSearcher.build(embeddings[:2_000], SPEC)
    smaller.save(tmp_path / "smaller")
    (tmp_path / "smaller" / INDEX_NAME).replace(tmp_path / INDEX_NAME)
    with pytest.raises(ArtifactCorruptError, match="2000 rows x 32; expected 3000 rows x 32"):
        FaissSearcher.load(tmp_path)
