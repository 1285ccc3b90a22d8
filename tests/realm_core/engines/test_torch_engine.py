from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_encoders import CLS_ID, SEP_ID, VOCAB_SIZE, realm_config

from realm_core.engines.engine import Work
from realm_core.engines.flops import embedder_flops
from realm_core.engines.torch_engine import TorchEngine
from realm_core.errors import BlockError, UsageError
from realm_core.modeling.embedder import RealmEmbedder

torch.manual_seed(11)
EMBEDDER = RealmEmbedder(realm_config()).eval()
RNG = np.random.default_rng(11)
TITLES = [RNG.integers(5, VOCAB_SIZE, RNG.integers(0, 6)).astype(np.uint16) for _ in range(40)]
BODIES = [RNG.integers(5, VOCAB_SIZE, RNG.integers(0, 55)).astype(np.uint16) for _ in range(40)]


def engine(**settings_):
    return TorchEngine(
        EMBEDDER, **{"tokens_per_pack": 256, "cls_token_id": CLS_ID, "sep_token_id": SEP_ID, **settings_}
    )


ENGINE = engine()
ALL = ENGINE.encode(TITLES, BODIES)


def plain(title, body=None):
    """One row, without padding, through the model's own forward pass."""
    first = [CLS_ID, *title.tolist(), SEP_ID]
    second = [] if body is None else [*body.tolist(), SEP_ID]
    types = torch.tensor([[0] * len(first) + [1] * len(second)])
    with torch.inference_mode():
        return EMBEDDER(torch.tensor([first + second]), token_type_ids=types).projected_score[0].numpy()


def cosine(first, second):
    return (first * second).sum(-1) / np.linalg.norm(first, axis=-1) / np.linalg.norm(second, axis=-1)


def test_equals_the_plain_forward_pass_in_the_order_of_the_input():
    expected = np.stack([plain(title, body) for title, body in zip(TITLES, BODIES, strict=True)])
    assert ALL.dtype == np.float32
    assert ALL.shape == (40, 8)
    assert cosine(ALL, expected).min() >= 0.99999
    np.testing.assert_allclose(ALL, expected, rtol=1e-3, atol=1e-4)


def test_queries_have_token_type_zero_only():
    expected = np.stack([plain(query) for query in TITLES])
    np.testing.assert_allclose(ENGINE.encode_queries(TITLES), expected, rtol=1e-3, atol=1e-4)


def test_queries_may_have_an_embedder_of_their_own():
    other = RealmEmbedder(realm_config()).eval()
    both = engine(query_embedder=other)
    assert both.encode(TITLES, BODIES).tobytes() == ALL.tobytes()
    alone = TorchEngine(other, tokens_per_pack=256, cls_token_id=CLS_ID, sep_token_id=SEP_ID)
    assert both.encode_queries(TITLES).tobytes() == alone.encode_queries(TITLES).tobytes()
    assert not np.allclose(both.encode_queries(TITLES), ENGINE.encode_queries(TITLES))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 39), min_size=1, max_size=40))
def test_a_rows_bits_do_not_depend_on_the_other_rows(indices):
    some = ENGINE.encode([TITLES[i] for i in indices], [BODIES[i] for i in indices])
    assert some.tobytes() == ALL[indices].tobytes()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 39), min_size=1, max_size=20))
def test_a_querys_bits_do_not_depend_on_the_other_queries(indices):
    together = ENGINE.encode_queries(TITLES)
    assert ENGINE.encode_queries([TITLES[i] for i in indices]).tobytes() == together[indices].tobytes()


def test_bits_do_not_depend_on_the_number_of_threads():
    embedder = RealmEmbedder(realm_config(hidden_size=64, intermediate_size=128, num_attention_heads=4))  # 16 wide each
    wide_heads = TorchEngine(embedder, tokens_per_pack=256, cls_token_id=CLS_ID, sep_token_id=SEP_ID)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(wide_heads.encode(TITLES, BODIES).tobytes())
    torch.set_num_threads(before)
    assert len(set(results)) == 1


def test_the_engine_neither_changes_nor_follows_the_embedder():
    torch.manual_seed(3)
    embedder = RealmEmbedder(realm_config()).train()
    copied = TorchEngine(embedder, cls_token_id=CLS_ID, sep_token_id=SEP_ID)
    before = copied.encode(TITLES[:3], BODIES[:3])
    assert embedder.training
    assert embedder.cls.dense.weight.requires_grad
    with torch.no_grad():
        for parameter in embedder.parameters():
            parameter.fill_(0.5)
    assert copied.encode(TITLES[:3], BODIES[:3]).tobytes() == before.tobytes()


def test_progress_adds_up_to_the_rows():
    work = []
    ENGINE.encode(TITLES, BODIES, progress=work.append)
    total = sum(work, Work())
    lengths = np.array([len(title) + len(body) + 3 for title, body in zip(TITLES, BODIES, strict=True)])
    assert (total.num_rows, total.num_tokens) == (40, lengths.sum())
    assert total.num_flops == pytest.approx(embedder_flops(EMBEDDER.config, lengths))
    assert len(work) > 1


def test_bf16_is_close_and_comes_back_as_fp32():
    half = engine(precision="bf16").encode(TITLES, BODIES)
    assert half.dtype == np.float32
    assert cosine(half, ALL).min() > 0.99


def test_no_rows_give_an_empty_array():
    assert ENGINE.encode([], []).shape == (0, 8)
    assert ENGINE.encode_queries([]).shape == (0, 8)


def test_a_block_of_exactly_all_positions_fits_and_one_more_does_not():
    body = np.full(61, 7, dtype=np.uint16)
    empty = np.array([], dtype=np.uint16)
    np.testing.assert_allclose(ENGINE.encode([empty], [body])[0], plain(empty, body), rtol=1e-3, atol=1e-4)
    with pytest.raises(BlockError, match="row 1 of 2: 65 tokens") as caught:
        ENGINE.encode([empty, empty], [body, np.full(62, 7, dtype=np.uint16)])
    assert caught.value.rows == (1,)


def test_a_token_outside_the_vocabulary_is_named():
    with pytest.raises(BlockError, match=f"rows 1, 2 of 3: token id {VOCAB_SIZE}; expected ids from 0 to") as caught:
        ENGINE.encode_queries([np.array(ids) for ids in ([7, 8], [9, VOCAB_SIZE], [-1])])
    assert caught.value.rows == (1, 2)


def test_titles_without_bodies_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        ENGINE.encode(TITLES, BODIES[:-1])


class Fragile:
    """The engine's Transformer on a device that fails for some packs."""

    def __init__(self, whole, fails):
        self._whole, self._fails = whole, fails

    def cls_states(self, pack):
        error = self._fails(pack)
        if error is not None:
            raise error
        return self._whole.cls_states(pack)


def fragile_engine(fails, **settings_):
    fragile = engine(**settings_)
    fragile._transformer = Fragile(fragile._transformer, fails)
    return fragile


def test_packs_are_halved_when_memory_runs_out_and_no_row_is_lost(caplog):
    def too_big(pack):
        return torch.OutOfMemoryError("out of memory") if len(pack.ids_T) > 600 else None

    small = fragile_engine(too_big, tokens_per_pack=2048)
    work = []
    embeddings = small.encode(TITLES, BODIES, progress=work.append)
    np.testing.assert_allclose(embeddings, ALL, rtol=1e-3, atol=1e-4)
    assert sum(done.num_rows for done in work) == 40
    assert "too small for 2048 tokens" in caplog.text


def test_memory_that_is_too_small_for_anything_is_said():
    none = fragile_engine(lambda _: torch.OutOfMemoryError("out of memory: tried to allocate 3 GiB"))
    with pytest.raises(UsageError, match="tried to allocate 3 GiB; expected memory for 256 tokens"):
        none.encode(TITLES, BODIES)


def test_rows_whose_forward_pass_fails_are_named():
    bodies = [*BODIES[:20], np.array([5, 39, 5], dtype=np.uint16), *BODIES[20:]]
    titles = [*TITLES[:20], TITLES[0], *TITLES[20:]]
    without = [np.where(tokens == 39, 38, tokens).astype(np.uint16) for tokens in bodies]
    bodies = [*without[:20], bodies[20], *without[21:]]
    titles = [np.where(tokens == 39, 38, tokens).astype(np.uint16) for tokens in titles]

    def fails(pack):
        return RuntimeError("no such number") if (pack.ids_T == 39).any() else None

    with pytest.raises(BlockError, match="row 20 of 41: no such number") as caught:
        fragile_engine(fails).encode(titles, bodies)
    assert caught.value.rows == (20,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99999), ("bf16", 0.999)])
def test_on_a_gpu_embeddings_are_those_of_the_plain_forward_pass(precision, least):
    on_gpu = engine(device="cuda", precision=precision, tokens_per_pack=1024)
    found = on_gpu.encode(TITLES, BODIES)
    expected = np.stack([plain(title, body) for title, body in zip(TITLES, BODIES, strict=True)])
    assert cosine(found, expected).min() >= least
    some = [3, 17, 5, 29]
    again = on_gpu.encode([TITLES[i] for i in some], [BODIES[i] for i in some])
    assert again.tobytes() == found[some].tobytes()


def test_settings_and_ids_that_mean_nothing_are_refused():
    with pytest.raises(UsageError, match="tokens_per_pack 0, precision 'fp16'"):
        engine(tokens_per_pack=0, precision="fp16")
    with pytest.raises(UsageError, match="values of the type float64; expected integers"):
        ENGINE.encode_queries([np.array([5.7])])
