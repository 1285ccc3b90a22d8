from __future__ import annotations

import numpy as np
import pytest

from realm_core.errors import ArtifactCorruptError, ArtifactMissingError, QueryError
from realm_core.index.flat import FlatSearcher, exact_top_k
from realm_core.index.specs import ResolvedSpec
from realm_core.index.vectors import VECTORS_NAME

FLAT = ResolvedSpec(kind="flat")


def test_hits_by_hand():
    embeddings = np.array([[1, 0], [0, 1], [1, 1], [1, 0]], np.float32)
    hits = exact_top_k(embeddings, np.array([[2, 1], [0, -1]], np.float32), 5)
    assert hits.rows_BK.tolist() == [[2, 0, 3, 1, -1], [0, 3, 1, 2, -1]]
    assert hits.relevances_BK.tolist() == [[3, 2, 2, 1, -np.inf], [0, 0, -1, -1, -np.inf]]


def test_hits_are_those_of_sorting_all_inner_products(embeddings, queries):
    hits = exact_top_k(embeddings, queries, 20)
    products = queries.astype(np.float64) @ embeddings.T.astype(np.float64)
    expected = np.argsort(-products, axis=1, kind="stable")[:, :20]
    assert hits.rows_BK.tolist() == expected.tolist()
    np.testing.assert_allclose(hits.relevances_BK, np.take_along_axis(products, expected, 1), rtol=1e-5)


def test_a_mapped_file_is_searched_in_place(embeddings, queries, tmp_path):
    FlatSearcher.build(embeddings, FLAT).save(tmp_path)
    mapped = np.load(tmp_path / VECTORS_NAME, mmap_mode="r")
    assert exact_top_k(mapped, queries, 10).rows_BK.tolist() == exact_top_k(embeddings, queries, 10).rows_BK.tolist()


def test_queries_are_validated(embeddings):
    with pytest.raises(QueryError, match="shape"):
        exact_top_k(embeddings, np.ones((1, 5), np.float32), 1)


def test_missing_and_truncated_vectors_are_named(embeddings, tmp_path):
    FlatSearcher.build(embeddings, FLAT).save(tmp_path)
    vectors = tmp_path / VECTORS_NAME
    content = vectors.read_bytes()
    vectors.write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactCorruptError, match=VECTORS_NAME):
        FlatSearcher.load(tmp_path)
    vectors.unlink()
    with pytest.raises(ArtifactMissingError, match=VECTORS_NAME):
        FlatSearcher.load(tmp_path)


@pytest.mark.parametrize("other", [np.ones((5, 4), np.float32), np.ones((3_000, 32), np.float64)])
def test_vectors_of_another_shape_or_type_are_refused(embeddings, tmp_path, other):
    FlatSearcher.build(embeddings, FLAT).save(tmp_path)
    np.save(tmp_path / VECTORS_NAME, other)
    with pytest.raises(ArtifactCorruptError, match=VECTORS_NAME):
        FlatSearcher.load(tmp_path)


def test_vectors_that_are_a_pickle_are_not_read(embeddings, tmp_path):
    FlatSearcher.build(embeddings, FLAT).save(tmp_path)
    np.save(tmp_path / VECTORS_NAME, np.array([{"code": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ArtifactCorruptError, match=VECTORS_NAME):
        FlatSearcher.load(tmp_path)
