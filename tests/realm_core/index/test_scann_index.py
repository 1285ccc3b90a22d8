from __future__ import annotations

import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from realm_core.errors import ArtifactCorruptError, ArtifactMissingError, GateError, UsageError
from realm_core.index.flat import exact_top_k
from realm_core.index.gate import measure_recall
from realm_core.index.scann_index import ASSETS_NAME, ScannSearcher
from realm_core.index.setting import SearchSetting
from realm_core.index.settling import pair_relevances
from realm_core.index.specs import ResolvedSpec

SPEC = ResolvedSpec(kind="scann", num_leaves=32)
SETTING = SearchSetting(leaf_fraction=0.25, num_reordered=100)


def test_without_scann_the_error_says_what_to_do(embeddings, monkeypatch):
    monkeypatch.setitem(sys.modules, "scann.scann_ops.py", None)
    monkeypatch.setitem(sys.modules, "scann", None)
    with pytest.raises(UsageError, match="kind faiss"):
        ScannSearcher.build(embeddings, SPEC)


def test_a_nan_row_is_refused_before_it_ends_the_process(embeddings):
    broken = embeddings.copy()
    broken[17, 3] = np.nan
    with pytest.raises(GateError, match="row 17"):
        ScannSearcher.build(broken, SPEC)


@pytest.fixture(scope="module")
def searcher(embeddings):
    pytest.importorskip("scann", reason="scann is made for Linux only")
    return ScannSearcher.build(embeddings, SPEC)


@pytest.fixture
def saved(searcher, tmp_path):
    searcher.save(tmp_path)
    return tmp_path


def test_recall_is_high(searcher, embeddings, queries):
    recall = measure_recall(searcher.search(queries, 10, SETTING), exact_top_k(embeddings, queries, 10))
    assert recall[10] > 0.95


def test_relevances_are_inner_products_with_the_float32_vectors(searcher, embeddings, queries):
    hits = searcher.search(queries, 10)
    of_queries = np.repeat(np.arange(len(queries)), 10)
    expected = pair_relevances(embeddings, queries, hits.rows_BK.ravel(), of_queries)
    np.testing.assert_allclose(hits.relevances_BK.ravel(), expected, rtol=1e-5, atol=1e-5)


def test_another_process_builds_the_same_bytes(saved, embeddings, tmp_path):
    np.save(tmp_path / "rows.npy", embeddings)
    program = (
        "import sys; import numpy as np; from pathlib import Path\n"
        "from realm_core.index.scann_index import ScannSearcher\n"
        "from realm_core.index.specs import ResolvedSpec\n"
        f"ScannSearcher.build(np.load(sys.argv[1]), {SPEC!r}).save(Path(sys.argv[2]))"
    )
    again = tmp_path / "again"
    command = [sys.executable, "-c", program, str(tmp_path / "rows.npy"), str(again)]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    for path in again.iterdir():
        assert path.read_bytes() == (saved / path.name).read_bytes(), path.name


def test_built_twice_the_bytes_are_the_same_also_where_threads_would_share_the_training(tmp_path):
    pytest.importorskip("scann", reason="scann is made for Linux only")
    rows = np.random.default_rng(3).standard_normal((30_000, 32), dtype=np.float32)
    for name in ("first", "second"):
        ScannSearcher.build(rows, ResolvedSpec(kind="scann", num_leaves=512)).save(tmp_path / name)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name


def test_few_of_many_leaves_hold_the_neighbours():
    """With ScaNN's own centroids, of any norm, 16 of these leaves hold 0.945."""
    pytest.importorskip("scann", reason="scann is made for Linux only")
    generator = np.random.default_rng(4)
    centres = generator.standard_normal((200, 64), dtype=np.float32)
    near = [centres[generator.integers(200, size=n)] for n in (20_000, 200)]
    rows, queries = (x + 0.75 * generator.standard_normal(x.shape, dtype=np.float32) for x in near)
    searcher = ScannSearcher.build(rows, ResolvedSpec(kind="scann", num_leaves=256))
    hits = searcher.search(queries, 10, SearchSetting(leaf_fraction=16 / 256, num_reordered=300))
    assert measure_recall(hits, exact_top_k(rows, queries, 10))[5] > 0.97


def test_saved_files_can_be_moved(saved, searcher, queries):
    moved = saved.parent / f"{saved.name}-moved"
    shutil.move(saved, moved)
    assert ScannSearcher.load(moved).search(queries, 5).rows_BK.tolist() == searcher.search(queries, 5).rows_BK.tolist()


def test_a_batch_of_one_and_a_parallel_batch_agree(searcher, queries):
    whole = searcher.search(queries, 5)
    alone = searcher.search(queries[7:8], 5)
    assert alone.rows_BK[0].tolist() == whole.rows_BK[7].tolist()


def test_more_hits_than_rows_are_padded_with_no_row_twice(searcher, queries):
    hits = searcher.search(queries[:2], 3_003)
    assert sorted(hits.rows_BK[0].tolist()) == [-1, -1, -1, *range(3_000)]
    assert hits.rows_BK[:, -3:].tolist() == [[-1] * 3] * 2


def test_a_pickle_among_the_files_is_not_opened(saved):
    (saved / "scann_docids.pkl").write_bytes(pickle.dumps(["a"]))
    with pytest.raises(ArtifactCorruptError, match="a pickle file"):
        ScannSearcher.load(saved)


@pytest.mark.parametrize("name", ["dataset.npy", "serialized_partitioner.pb", "datapoint_to_token.npy"])
def test_a_truncated_file_is_refused(saved, name):
    path = saved / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactCorruptError):
        ScannSearcher.load(saved)


def test_a_missing_file_is_named(saved):
    (saved / ASSETS_NAME).unlink()
    with pytest.raises(ArtifactMissingError, match=ASSETS_NAME):
        ScannSearcher.load(saved)
