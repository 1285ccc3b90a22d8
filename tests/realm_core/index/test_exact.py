from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realm_core.index import exact
from realm_core.index.exact import ExactSearcher
from realm_core.index.flat import exact_top_k
from realm_core.index.merge import merge_top_k
from realm_core.index.searcher import SearchHits
from realm_core.index.specs import ResolvedSpec

EXACT = ResolvedSpec(kind="exact")


def bits(hits: SearchHits) -> tuple[list, bytes]:
    return hits.rows_BK.tolist(), hits.relevances_BK.tobytes()


def search_in_shards(embeddings: np.ndarray, queries: np.ndarray, num_hits: int, cuts: list[int]) -> SearchHits:
    lists = []
    for start, stop in zip([0, *cuts], [*cuts, len(embeddings)], strict=True):
        hits = ExactSearcher.build(embeddings[start:stop], EXACT, device="cpu").search(queries, num_hits)
        lists.append(SearchHits(hits.relevances_BK, np.where(hits.rows_BK < 0, -1, hits.rows_BK + start)))
    return merge_top_k(lists, num_hits)


def test_torch_and_faiss_give_the_same_bits(embeddings, queries):
    hits = ExactSearcher.build(embeddings, EXACT, device="cpu").search(queries, 10)
    assert bits(hits) == bits(exact_top_k(embeddings, queries, 10))


def test_blocks_of_rows_and_steps_of_queries_do_not_show(embeddings, queries, monkeypatch):
    searcher = ExactSearcher.build(embeddings, EXACT, device="cpu")
    whole = searcher.search(queries, 10)
    monkeypatch.setitem(exact._NUM_SCORES, "cpu", 1)
    monkeypatch.setattr(exact, "_QUERIES_PER_STEP", 7)
    assert bits(searcher.search(queries, 10)) == bits(whole)


def test_a_query_is_answered_the_same_alone_and_in_a_batch(embeddings, queries):
    searcher = ExactSearcher.build(embeddings, EXACT, device="cpu")
    whole = searcher.search(queries, 10)
    for row in range(0, len(queries), 9):
        alone = searcher.search(queries[row : row + 1], 10)
        assert alone.rows_BK[0].tolist() == whole.rows_BK[row].tolist()
        assert alone.relevances_BK[0].tobytes() == whole.relevances_BK[row].tobytes()


def test_shards_merged_are_the_whole(embeddings, queries):
    whole = ExactSearcher.build(embeddings, EXACT, device="cpu").search(queries, 10)
    assert bits(search_in_shards(embeddings, queries, 10, [1, 4, 1_001])) == bits(whole)


@settings(deadline=None)
@given(data=st.data())
def test_shards_merged_are_the_whole_when_most_rows_are_copies(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    num_rows = data.draw(st.integers(2, 150))
    distinct = rng.standard_normal((data.draw(st.integers(1, 4)), 24)).astype(np.float32)
    embeddings = distinct[rng.integers(0, len(distinct), num_rows)]
    queries = rng.standard_normal((3, 24)).astype(np.float32)
    cuts = sorted(data.draw(st.sets(st.integers(1, num_rows - 1), max_size=3)))
    num_hits = data.draw(st.integers(1, 12))
    whole = ExactSearcher.build(embeddings, EXACT, device="cpu").search(queries, num_hits)
    assert bits(search_in_shards(embeddings, queries, num_hits, cuts)) == bits(whole)


def test_of_a_thousand_copies_the_smallest_rows_come_out(embeddings, queries):
    copies = np.concatenate([embeddings, np.tile(embeddings[5], (1_000, 1))])
    hits = ExactSearcher.build(copies, EXACT, device="cpu").search(embeddings[5:6], 4)
    assert hits.rows_BK.tolist() == [[5, 3_000, 3_001, 3_002]]


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_a_reduced_matrix_precision_set_by_training_does_not_change_the_answer(embeddings, queries, precision):
    searcher = ExactSearcher.build(embeddings, EXACT, device="cpu")
    whole = searcher.search(queries, 10)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        reduced = searcher.search(queries, 10)
    finally:
        torch.set_float32_matmul_precision(before)
    assert bits(reduced) == bits(whole)


def test_products_of_a_reduced_precision_only_propose():
    """500 rows closer together than bfloat16 can tell, multiplied as a GPU would that rounds them to it."""
    rng = np.random.default_rng(3)
    embeddings = (1.0 + 1e-3 * rng.standard_normal((500, 24))).astype(np.float32)
    query = np.ones((1, 24), np.float32)
    searcher = ExactSearcher.build(embeddings, EXACT, device="cpu")
    searcher._device_embeddings_RD = searcher._device_embeddings_RD.bfloat16().float()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        hits = searcher.search(query, 5)
    finally:
        torch.set_float32_matmul_precision(before)
    assert bits(hits) == bits(exact_top_k(embeddings, query, 5))


def test_block_by_block_the_same_rows_are_proposed(embeddings, queries, monkeypatch):
    monkeypatch.setitem(exact._NUM_SCORES, "cpu", 1)
    rows, query = torch.from_numpy(embeddings.copy()), torch.from_numpy(queries[:3].copy())
    relevances_BN, rows_BN = exact.top_rows(rows, query, 9)
    expected = (query @ rows.T).topk(9, dim=1)
    torch.testing.assert_close(relevances_BN, expected.values)
    assert rows_BN.tolist() == expected.indices.tolist()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 3e4])
def test_float16_products_find_the_same_bits(embeddings, queries, scale):
    scaled = (embeddings * np.float32(scale)).astype(np.float32)
    half = ExactSearcher.build(scaled, EXACT, device="cpu", dtype=torch.float16).search(queries, 10)
    assert bits(half) == bits(ExactSearcher.build(scaled, EXACT, device="cpu").search(queries, 10))


def test_float16_products_only_propose():
    """500 rows closer together than float16 can tell."""
    embeddings = (1.0 + 1e-4 * np.random.default_rng(3).standard_normal((500, 24))).astype(np.float32)
    query = np.ones((1, 24), np.float32)
    hits = ExactSearcher.build(embeddings, EXACT, device="cpu", dtype=torch.float16).search(query, 5)
    assert bits(hits) == bits(exact_top_k(embeddings, query, 5))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cpu_and_gpu_give_the_same_bits(embeddings, queries):
    on_cpu = ExactSearcher.build(embeddings, EXACT, device="cpu").search(queries, 10)
    on_gpu = ExactSearcher.build(embeddings, EXACT, device="cuda").search(queries, 10)
    assert bits(on_gpu) == bits(on_cpu)
