import pytest
import torch

from realm_core.errors import ArtifactCorruptError, ArtifactMissingError
from realm_core.modeling.checkpoints import encoder_digest, load_encoder
from realm_core.storage.encoder_store import encoder_path, get_encoder, put_encoder
from realm_core.storage.files import Store


@pytest.fixture
def stored(tmp_path, tiny_bert):
    """A store with an encoder: store, digest, and the encoder as it came."""
    store, encoder = Store(str(tmp_path)), load_encoder(str(tiny_bert))
    return store, put_encoder(store, encoder), encoder


def weights(digest):
    return f"{encoder_path(digest)}/model.safetensors"


def test_an_encoder_comes_back_under_its_digest(stored):
    store, digest, encoder = stored
    assert digest == encoder_digest(encoder.embedder)
    assert encoder_digest(get_encoder(store, digest).embedder) == digest
    with pytest.raises(ArtifactMissingError):
        get_encoder(store, "0" * 64)


def test_an_encoder_with_a_query_embedder_comes_back_with_it(stored):
    store, shared_digest, encoder = stored
    pair = encoder.separated()
    with torch.no_grad():
        pair.query_embedder.cls.dense.weight.add_(1.0)
    digest = put_encoder(store, pair)
    assert digest not in (shared_digest, encoder.separated().digest)
    found = get_encoder(store, digest)
    assert torch.equal(found.query_embedder.cls.dense.weight, pair.query_embedder.cls.dense.weight)
    assert torch.equal(found.embedder.cls.dense.weight, encoder.embedder.cls.dense.weight)


def test_a_flipped_bit_in_the_weights_is_noticed(stored):
    store, digest, _ = stored
    whole = store.read_bytes(weights(digest))
    store.write_bytes(weights(digest), whole[:9001] + bytes([whole[9001] ^ 1]) + whole[9002:])
    with pytest.raises(ArtifactCorruptError, match="weights with the digest"):
        get_encoder(store, digest)


@pytest.mark.parametrize("keep", [0, 100, 9001])
def test_a_damaged_encoder_is_stored_again_where_its_source_is_given(stored, keep):
    store, digest, encoder = stored
    whole = store.read_bytes(weights(digest))
    store.write_bytes(weights(digest), whole[:keep])
    assert put_encoder(store, encoder) == digest
    assert store.read_bytes(weights(digest)) == whole
