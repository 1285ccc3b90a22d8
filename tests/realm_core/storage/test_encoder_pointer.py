import pytest

from realm_core.errors import EncoderError
from realm_core.storage.encoder_pointer import (
    POINTER_PATH,
    EncoderVersion,
    current_encoder,
    has_current_encoder,
    set_current_encoder,
)
from realm_core.storage.files import Store


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


@pytest.mark.parametrize("published", [None, "published-0123456789ab"])
def test_what_was_set_is_read_back(store, published):
    version = EncoderVersion(digest="d" * 64, step=7, saved_at_seconds=1.5, published_precision=published)
    set_current_encoder(store, version)
    assert has_current_encoder(store)
    assert current_encoder(store) == version


def test_a_pointer_from_before_published_embeddings_still_loads(store):
    store.write_json(POINTER_PATH, {"digest": "d" * 64, "step": 3, "saved_at_seconds": 1.5})
    assert current_encoder(store) == EncoderVersion(digest="d" * 64, step=3, saved_at_seconds=1.5)
    assert current_encoder(store).published_precision is None


def test_a_store_without_an_encoder_says_what_to_run(store):
    assert not has_current_encoder(store)
    with pytest.raises(EncoderError, match=r"no encoder.*realm warmup"):
        current_encoder(store)
