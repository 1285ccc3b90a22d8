import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.snapshots import DIMENSION, SyntheticStore, exact_block_ids

from realm_core.errors import ArtifactCorruptError, ArtifactMissingError, GateError
from realm_core.index.building import index_builder, sample_rows
from realm_core.index.known_queries import RELEVANCES_NAME
from realm_core.index.setting import SearchSetting
from realm_core.index.shard_building import build_shard
from realm_core.index.shards import ShardSearcher, plan_shards, shard_bounds
from realm_core.index.specs import IndexSpec, ResolvedSpec
from realm_core.index.truth import ExactTopK
from realm_core.storage.snapshots import shard_path

NUM_ROWS, NUM_LEAVES = 5_000, 64
SPECS = {
    "exact": ResolvedSpec(kind="exact"),
    "flat": ResolvedSpec(kind="flat"),
    "faiss": ResolvedSpec(kind="faiss", num_leaves=NUM_LEAVES),
    "scann": ResolvedSpec(kind="scann", num_leaves=NUM_LEAVES),
}


def embeddings(seed=0):
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(100, DIMENSION))
    rows = centres[generator.integers(100, size=NUM_ROWS)] + 0.5 * generator.normal(size=(NUM_ROWS, DIMENSION))
    return rows.astype(np.float32)


def build(spec, vectors, folder, batch_rows):
    folder.mkdir()
    sample = vectors[sample_rows(spec, len(vectors))]
    builder = index_builder(spec, num_rows=len(vectors), dimension=vectors.shape[1], sample_RD=sample, folder=folder)
    for start in range(0, len(vectors), batch_rows):
        builder.add(vectors[start : start + batch_rows])
    builder.finish()
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", SPECS)
def test_the_bytes_do_not_depend_on_how_rows_come(kind, tmp_path):
    if kind == "scann":
        pytest.importorskip("scann")
    vectors = embeddings()
    assert build(SPECS[kind], vectors, tmp_path / "a", NUM_ROWS) == build(SPECS[kind], vectors, tmp_path / "b", 777)


def test_exact_hits_batch_by_batch_are_those_of_the_whole():
    vectors, queries = embeddings(), embeddings(1)[:20]
    truth = ExactTopK(queries, 12)
    for start in range(0, NUM_ROWS, 999):
        truth.add(vectors[start : start + 999], 100 + start)
    np.testing.assert_array_equal(truth.hits.rows_BK, 100 + exact_block_ids(vectors, queries, 12))


def fill(filled, vectors):
    """Embeddings of the synthetic corpus; the plan of one shard."""
    digests = filled.write(vectors, "e")
    (plan,) = plan_shards(filled.corpus.parts, digests, num_shards=1, spec=IndexSpec())
    return plan


def test_a_shard_is_built_once_and_its_known_queries_are_found(tmp_path):
    filled = SyntheticStore(tmp_path)
    vectors = filled.embeddings(0)
    plan = fill(filled, vectors)
    built = build_shard(filled.store, plan, vectors[:7], num_hits=10)
    assert not built.was_reused
    assert (built.entry.num_rows, built.entry.kind) == (400, "flat")
    assert built.entry.num_bytes > vectors.nbytes
    np.testing.assert_array_equal(built.exact.rows_BK, exact_block_ids(vectors, vectors[:7], 10))
    again = build_shard(filled.store, plan, vectors[:7], num_hits=10)
    assert again.was_reused
    assert again.entry == built.entry
    assert ShardSearcher(filled.store, built.entry, SearchSetting()).check_known_queries() == 1.0


def test_an_index_that_finds_other_rows_than_the_known_ones_is_refused(tmp_path):
    filled = SyntheticStore(tmp_path)
    vectors = filled.embeddings(0)
    built = build_shard(filled.store, fill(filled, vectors), vectors[:7], num_hits=10)
    relevances = filled.store.local_folder(shard_path(built.entry.digest)) / RELEVANCES_NAME
    np.save(relevances, np.load(relevances) + 100)
    searcher = ShardSearcher(filled.store, built.entry, is_verified=True)
    with pytest.raises(ArtifactCorruptError, match=r"of the known hits of 16 known queries; expected at least 50%"):
        searcher.check_known_queries()
    relevances.unlink()
    with pytest.raises(ArtifactMissingError, match=RELEVANCES_NAME):
        searcher.check_known_queries()


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN"), (0.0, "all zeros")])
def test_rows_that_cannot_be_searched_fail_the_build_and_leave_nothing(tmp_path, value, message):
    filled = SyntheticStore(tmp_path)
    vectors = filled.embeddings(0)
    vectors[123] = value
    plan = fill(filled, vectors)
    with pytest.raises(GateError, match=message):
        build_shard(filled.store, plan, filled.embeddings(1)[:7], num_hits=10)
    assert not filled.store.exists(f"{shard_path(plan.digest)}/shard.json")


def test_embeddings_of_another_width_than_the_encoder_s_are_refused(tmp_path):
    filled = SyntheticStore(tmp_path)
    vectors = filled.embeddings(0)
    with pytest.raises(GateError, match=f"embeddings of {DIMENSION} dimensions; expected {DIMENSION + 2}"):
        build_shard(filled.store, fill(filled, vectors), np.ones((3, DIMENSION + 2), np.float32), num_hits=10)


@pytest.mark.parametrize(
    ("num_parts", "num_shards", "sizes"),
    [(6, 2, [3, 3]), (7, 3, [2, 3, 2]), (3, 8, [1, 1, 1]), (14, 4, [4, 4, 4, 2]), (9, 5, [2, 2, 1, 2, 2])],
)
def test_shards_have_about_as_many_parts_and_the_last_of_many_half_as_many(num_parts, num_shards, sizes):
    bounds = shard_bounds(num_parts, num_shards)
    assert [stop - start for start, stop in bounds] == sizes


@given(st.integers(1, 900), st.integers(1, 128))
def test_every_part_is_in_one_shard_and_no_shard_is_empty(num_parts, num_shards):
    bounds = shard_bounds(num_parts, num_shards)
    assert [part for start, stop in bounds for part in range(start, stop)] == list(range(num_parts))
    assert len(bounds) == min(num_parts, num_shards)
    assert all(start < stop for start, stop in bounds)
