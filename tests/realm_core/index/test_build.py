"""What every kind promises."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from realm_core.errors import GateError, QueryError
from realm_core.index.build import build_searcher, load_searcher
from realm_core.index.setting import SearchSetting
from realm_core.index.specs import IndexSpec, ResolvedSpec, resolve_spec

TREE = {"num_leaves": 32}
SPECS = {
    "exact": ResolvedSpec(kind="exact"),
    "flat": ResolvedSpec(kind="flat"),
    "faiss": ResolvedSpec(kind="faiss", **TREE),
    "scann": ResolvedSpec(kind="scann", **TREE),
}


@pytest.fixture(scope="module", params=SPECS)
def spec(request):
    if request.param == "scann":
        pytest.importorskip("scann", reason="scann is made for Linux only")
    return SPECS[request.param]


@pytest.fixture(scope="module")
def searcher(spec, embeddings):
    return build_searcher(embeddings, spec)


def test_loaded_equals_built(searcher, queries, tmp_path):
    searcher.save(tmp_path)
    loaded = load_searcher(tmp_path)
    assert (loaded.num_rows, loaded.dimension) == (searcher.num_rows, searcher.dimension) == (3_000, 32)
    for num_hits in (1, 10, 200):
        built_hits, loaded_hits = searcher.search(queries, num_hits), loaded.search(queries, num_hits)
        assert loaded_hits.rows_BK.tolist() == built_hits.rows_BK.tolist()
        assert loaded_hits.relevances_BK.tobytes() == built_hits.relevances_BK.tobytes()


def test_built_twice_and_saved_again_the_bytes_are_the_same(searcher, spec, embeddings, tmp_path):
    searcher.save(tmp_path / "first")
    build_searcher(embeddings.copy(), spec).save(tmp_path / "second")
    load_searcher(tmp_path / "first").save(tmp_path / "reloaded")
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    for other in ("second", "reloaded"):
        assert sorted(path.name for path in (tmp_path / other).iterdir()) == names
        for name in names:
            assert (tmp_path / other / name).read_bytes() == (tmp_path / "first" / name).read_bytes(), (other, name)


def test_nothing_on_disk_is_a_pickle(searcher, tmp_path):
    searcher.save(tmp_path)
    for path in tmp_path.iterdir():
        assert path.suffix in {".json", ".npy", ".faiss", ".pb", ".pbtxt"}
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)


def test_hits_fall_and_have_their_types(searcher, queries):
    hits = searcher.search(queries, 10)
    assert hits.relevances_BK.shape == hits.rows_BK.shape == (len(queries), 10)
    assert hits.relevances_BK.dtype == np.float32
    assert hits.rows_BK.dtype == np.int64
    assert (np.diff(hits.relevances_BK, axis=1) <= 0).all()


def test_an_empty_batch_gives_no_hits(searcher):
    assert searcher.search(np.empty((0, 32), np.float32), 4).rows_BK.shape == (0, 4)


def test_more_hits_than_rows(searcher, queries):
    hits = searcher.search(queries[:3], 3_002)
    for rows, relevances in zip(hits.rows_BK, hits.relevances_BK, strict=True):
        assert sorted(rows[:3_000].tolist()) == list(range(3_000))
        assert rows[3_000:].tolist() == [-1, -1]
        assert np.isneginf(relevances[3_000:]).all()


def test_copies_of_a_row_come_smallest_row_first(spec, embeddings):
    copies = embeddings.copy()
    copies[[2_999, 40, 777, 1_500]] = 2 * embeddings[0]
    hits = build_searcher(copies, spec).search(embeddings[:1], 4)
    assert hits.rows_BK.tolist() == [[40, 777, 1_500, 2_999]]


@pytest.mark.parametrize("kind", ["faiss", "scann"])
def test_a_leaf_with_fewer_rows_than_hits_asked_for_is_no_answer(kind):
    if kind == "scann":
        pytest.importorskip("scann", reason="scann is made for Linux only")
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((3_000, 16)).astype(np.float32)
    rows[:, 0] = 0.0
    rows[:60] = 0.01 * rows[:60]
    rows[:60, 0] = 10.0
    spec = ResolvedSpec(kind=kind, num_leaves=4)
    one_leaf = SearchSetting(leaf_fraction=0.25, num_reordered=100)
    hits = build_searcher(rows, spec).search(np.eye(1, 16, dtype=np.float32), 70, one_leaf)
    assert sorted(hits.rows_BK[0, :60].tolist()) == list(range(60))
    assert hits.rows_BK[0, 60:].min() >= 60
    assert len(set(hits.rows_BK[0].tolist())) == 70


@pytest.mark.parametrize(
    ("query", "num_hits"), [(np.full(32, np.nan), 5), (np.ones(31), 5), (np.ones(32), 0)], ids=["nan", "width", "hits"]
)
def test_queries_without_meaning_are_refused(searcher, query, num_hits):
    with pytest.raises(QueryError):
        searcher.search(query[None].astype(np.float32), num_hits)


def test_a_nan_row_is_refused_before_the_build(spec, embeddings):
    broken = embeddings.copy()
    broken[2_000, 0] = np.inf
    with pytest.raises(GateError, match="row 2000"):
        build_searcher(broken, spec)


@pytest.mark.parametrize("kind", ["exact", "auto"])
def test_an_index_of_one_row(kind, tmp_path):
    row = np.array([[1.0, 2.0]], np.float32)
    build_searcher(row, resolve_spec(IndexSpec(kind=kind), 1, "linux")).save(tmp_path)
    hits = load_searcher(tmp_path).search(np.array([[3.0, 0.5]], np.float32), 3)
    assert hits.rows_BK.tolist() == [[0, -1, -1]]
    assert hits.relevances_BK.tolist() == [[4.0, -np.inf, -np.inf]]


def test_a_shard_process_starts_without_torch():
    program = (
        "import sys; import numpy as np; from pathlib import Path\n"
        "from realm_core.index import build, gate, merge, scann_index, specs\n"
        "spec = specs.resolve_spec(specs.IndexSpec(), 5, 'linux')\n"
        "build.build_searcher(np.ones((5, 4), np.float32), spec).search(np.ones((1, 4), np.float32), 2)\n"
        "import realm_core.index.faiss_index\n"
        "assert not {'torch', 'ray', 'transformers', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
