"""int8 needs the extra `int8`, which `make install-dev` installs."""

import numpy as np
import pytest
import torch
from support.snapshots import SyntheticStore

from realm_core.engines.engine import Work
from realm_core.engines.loading import StoreEngineLoader, engine_of
from realm_core.engines.quantization import load_int8_engine, prepare_int8, quantized_arithmetic, read_quantized
from realm_core.errors import ArtifactCorruptError, BlockError
from realm_core.modeling.checkpoints import load_encoder
from realm_core.storage.encoder_store import put_encoder

pytest.importorskip("openvino", reason="the extra int8 is not installed")
pytest.importorskip("nncf", reason="the extra int8 is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NNCF's own dependencies

RNG = np.random.default_rng(4)
TITLES = [RNG.integers(5, 60, RNG.integers(0, 6)).astype(np.uint16) for _ in range(30)]
BODIES = [RNG.integers(5, 60, RNG.integers(0, 80)).astype(np.uint16) for _ in range(30)]


@pytest.fixture(scope="module")
def quantized(tmp_path_factory, tiny_bert):
    """A store with an encoder and its int8 form: store, corpus, encoder's digest, name of the arithmetic."""
    synthetic = SyntheticStore(tmp_path_factory.mktemp("int8"), num_blocks=60)
    encoder = load_encoder(str(tiny_bert))
    digest = put_encoder(synthetic.store, encoder)
    said = []
    name = prepare_int8(synthetic.store, digest, synthetic.corpus, said.append)
    assert len(said) == 1
    return synthetic.store, synthetic.corpus, digest, name


@pytest.fixture(scope="module")
def engine(quantized):
    store, _, digest, name = quantized
    return load_int8_engine(store, digest, name, threads=2)


def test_an_encoder_is_quantized_once_also_for_a_later_corpus(quantized, tmp_path):
    store, corpus, digest, name = quantized
    said = []
    assert prepare_int8(store, digest, corpus, said.append) == name
    assert prepare_int8(store, digest, SyntheticStore(tmp_path, num_blocks=80).corpus, said.append) == name
    assert said == []
    assert quantized_arithmetic(store, digest) == name
    assert quantized_arithmetic(store, "0" * 64) is None
    manifest = read_quantized(store, name)
    assert (manifest.encoder_digest, manifest.corpus_digest) == (digest, corpus.digest)
    assert manifest.num_calibration_blocks == 60


def test_embeddings_are_close_to_those_in_fp32(quantized, engine):
    store, _, digest, _ = quantized
    exact = StoreEngineLoader(threads=2).load(store, digest, "fp32").encode(TITLES, BODIES)
    work = []
    found = engine.encode(TITLES, BODIES, progress=work.append)
    assert found.dtype == np.float32
    cosines = (found * exact).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosines.min() > 0.97
    assert not np.array_equal(found, exact)
    num_tokens = sum(len(title) + len(body) + 3 for title, body in zip(TITLES, BODIES, strict=True))
    total = sum(work, Work())
    assert (total.num_rows, total.num_tokens) == (30, num_tokens)


def test_a_rows_bits_do_not_depend_on_the_other_rows(engine):
    whole = engine.encode(TITLES, BODIES)
    for rows in ([7], [3, 29, 11, 4], list(range(29, -1, -1))):
        some = engine.encode([TITLES[row] for row in rows], [BODIES[row] for row in rows])
        assert some.tobytes() == whole[rows].tobytes()


def test_queries_are_embedded(engine):
    whole = engine.encode_queries(TITLES)
    assert whole.shape == (30, engine.dimension)
    assert engine.encode_queries(TITLES[4:6]).tobytes() == whole[4:6].tobytes()


def test_queries_that_have_an_embedder_of_their_own_are_embedded_with_it_in_fp32(quantized, tiny_bert):
    store, corpus, _, _ = quantized
    pair = load_encoder(str(tiny_bert)).separated()
    with torch.no_grad():
        pair.query_embedder.cls.dense.bias.add_(torch.arange(pair.config.retriever_proj_size))
    digest = put_encoder(store, pair)
    engine = load_int8_engine(store, digest, prepare_int8(store, digest, corpus), threads=2)
    exact = StoreEngineLoader(threads=2).load(store, digest, "fp32")
    np.testing.assert_allclose(engine.encode_queries(TITLES), exact.encode_queries(TITLES), rtol=1e-4, atol=1e-4)
    shared = engine_of(load_encoder(str(tiny_bert)))
    assert not np.allclose(engine.encode_queries(TITLES), shared.encode_queries(TITLES), atol=0.1)


def test_rows_that_cannot_be_embedded_are_named(engine):
    with pytest.raises(BlockError, match="row 1 of 2"):
        engine.encode(TITLES[:2], [BODIES[0], np.full(600, 7, dtype=np.uint16)])


def test_a_flipped_byte_in_the_weights_is_noticed_and_the_model_made_again(quantized):
    store, corpus, digest, name = quantized
    path = f"quantized/{name}/model.bin"
    whole = store.read_bytes(path)
    store.write_bytes(path, whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    with pytest.raises(ArtifactCorruptError, match=r"model\.bin"):
        load_int8_engine(store, digest, name, threads=2)
    made_again = prepare_int8(store, digest, corpus)
    assert quantized_arithmetic(store, digest) == made_again
    load_int8_engine(store, digest, made_again, threads=2)
    store.write_bytes(path, whole)


def test_another_encoders_model_is_refused(quantized):
    store, _, _, name = quantized
    with pytest.raises(ArtifactCorruptError, match="int8 form of encoder"):
        load_int8_engine(store, "0" * 64, name, threads=2)
