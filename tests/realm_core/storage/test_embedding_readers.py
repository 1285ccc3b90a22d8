"""Embedding files in other programs' hands: uids, values and row order as they were written."""

import numpy as np
import pytest

from realm_core.storage.block_store import PartEntry
from realm_core.storage.embedding_store import EmbeddingSpec, embedding_path, write_embeddings
from realm_core.storage.files import Store

NUM_ROWS, DIMENSION = 300, 16
PART = PartEntry(digest="a" * 64, num_rows=NUM_ROWS, num_tokens=1, first_block_id=0)
UIDS = [number.to_bytes(4) * 5 for number in np.random.default_rng(0).permutation(NUM_ROWS).tolist()]
EMBEDDINGS = np.random.default_rng(1).normal(size=(NUM_ROWS, DIMENSION)).astype(np.float32)


@pytest.fixture(params=["fp32", "fp32/float16"])
def written(request, tmp_path):
    """(path, values as they are stored)."""
    store = Store(str(tmp_path))
    spec = EmbeddingSpec(encoder_digest="c" * 64, precision=request.param)
    write_embeddings(store, spec, PART, np.array(UIDS, dtype="V20"), EMBEDDINGS)
    path = store.local_file(embedding_path(spec.digest(PART.digest)))
    return str(path), EMBEDDINGS.astype(np.float16 if "float16" in request.param else np.float32)


def test_pandas(written):
    import pandas as pd

    path, values = written
    frame = pd.read_parquet(path)
    assert frame["uid"].tolist() == UIDS
    stacked = np.stack(frame["embedding"])
    assert stacked.dtype == values.dtype
    np.testing.assert_array_equal(stacked, values)


def test_duckdb_which_shows_float16_as_float(written):
    import duckdb

    path, values = written
    with duckdb.connect() as connection:
        types = connection.execute(
            "select typeof(uid), typeof(embedding) from read_parquet(?) limit 1", [path]
        ).fetchall()
        rows = connection.execute("select uid, embedding from read_parquet(?)", [path]).fetchall()
    assert types == [("BLOB", "FLOAT[]")]
    assert [uid for uid, _ in rows] == UIDS
    np.testing.assert_array_equal(np.array([row for _, row in rows], dtype=np.float32), values.astype(np.float32))


def test_duckdb_computes_with_lists_cast_to_arrays(written):
    import duckdb

    path, values = written
    sql = (
        f"select array_inner_product(embedding::float[{DIMENSION}], embedding::float[{DIMENSION}]) from read_parquet(?)"
    )
    with duckdb.connect() as connection:
        found = [row[0] for row in connection.execute(sql, [path]).fetchall()]
    np.testing.assert_allclose(found, (values.astype(np.float32) ** 2).sum(axis=1), rtol=1e-5)


def test_hugging_face_datasets(written, tmp_path):
    from datasets import Dataset, List, Value, load_dataset

    path, values = written
    for dataset in (
        Dataset.from_parquet(path, cache_dir=str(tmp_path / "cache")),
        load_dataset("parquet", data_files=path, split="train", cache_dir=str(tmp_path / "cache")),
    ):
        assert dataset["uid"][:] == UIDS
        assert dataset.features["embedding"] == List(Value(values.dtype.name), length=DIMENSION)
        np.testing.assert_array_equal(np.array(dataset["embedding"][:], dtype=values.dtype), values)


@pytest.mark.cluster
@pytest.mark.filterwarnings("ignore:.use_\\w+. is deprecated:DeprecationWarning:ray.data.context")  # Ray's own
def test_ray_data(written, ray_cluster):
    import ray

    path, values = written
    rows = ray.data.read_parquet(path).take_all()
    assert [row["uid"] for row in rows] == UIDS
    np.testing.assert_array_equal(np.array([row["embedding"] for row in rows], dtype=values.dtype), values)
