from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_encoders import CLS_ID, SEP_ID, VOCAB_SIZE, realm_config

from realm_core.engines.torch_engine import TorchEngine
from realm_core.errors import UsageError
from realm_core.modeling.embedder import RealmEmbedder

torch.manual_seed(11)
EMBEDDER = RealmEmbedder(realm_config()).eval()
RNG = np.random.default_rng(11)
TITLES = [RNG.integers(5, VOCAB_SIZE, RNG.integers(0, 6)).astype(np.uint16) for _ in range(40)]
BODIES = [RNG.integers(5, VOCAB_SIZE, RNG.integers(0, 55)).astype(np.uint16) for _ in range(40)]


def engine(**settings_):
    return TorchEngine(
        EMBEDDER, **{"max_tokens_per_batch": 256, "cls_token_id": CLS_ID, "sep_token_id": SEP_ID, **settings_}
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
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(ENGINE.encode(TITLES, BODIES).tobytes())
    torch.set_num_threads(before)
    assert results[0] == results[1]


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
    counts = []
    ENGINE.encode(TITLES, BODIES, progress=counts.append)
    assert sum(counts) == 40
    assert len(counts) > 1


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
    with pytest.raises(UsageError, match="65 tokens"):
        ENGINE.encode([empty], [np.full(62, 7, dtype=np.uint16)])


def test_a_token_outside_the_vocabulary_is_named():
    with pytest.raises(UsageError, match=f"id {VOCAB_SIZE}; expected ids below {VOCAB_SIZE}"):
        ENGINE.encode_queries([np.array([VOCAB_SIZE], dtype=np.uint16)])


def test_titles_without_bodies_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        ENGINE.encode(TITLES, BODIES[:-1])
