import numpy as np
import pytest

from realm_core.errors import ArtifactCorruptError
from realm_core.storage.block_store import PartEntry
from realm_core.storage.embedding_store import (
    embedding_digest,
    embedding_path,
    embeddings_are_whole,
    read_embeddings,
    write_embeddings,
)
from realm_core.storage.files import Store

PART = PartEntry(digest="p", num_rows=50, num_tokens=1, first_block_id=0)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


@pytest.fixture
def written(store):
    uids = np.frombuffer(np.random.default_rng(0).bytes(50 * 20), "V20")
    embeddings = np.random.default_rng(1).normal(size=(50, 16)).astype(np.float32)
    write_embeddings(store, "e", uids, embeddings)
    return uids, embeddings


def test_bits_survive_and_writing_twice_gives_the_same_bytes(store, written):
    uids, embeddings = read_embeddings(store, "e", PART)
    assert uids.tobytes() == written[0].tobytes()
    assert embeddings.tobytes() == written[1].tobytes()
    before = store.read_bytes(embedding_path("e"))
    write_embeddings(store, "e", *written)
    assert store.read_bytes(embedding_path("e")) == before


def test_a_name_depends_on_part_encoder_and_precision():
    names = {embedding_digest(p, e, a) for p in "xy" for e in "xy" for a in ("fp32", "int8")}
    assert len(names) == 8


def test_a_flipped_byte_means_to_be_made_again(store, written, tmp_path):
    path = tmp_path / embedding_path("e")
    data = bytearray(path.read_bytes())
    data[1500] ^= 1
    path.write_bytes(data)
    assert not embeddings_are_whole(store, "e", PART)


def test_another_number_of_rows_is_an_error(store, written):
    other = PartEntry(digest="p", num_rows=51, num_tokens=1, first_block_id=0)
    with pytest.raises(ArtifactCorruptError, match="50 rows; expected 51 rows"):
        read_embeddings(store, "e", other)
