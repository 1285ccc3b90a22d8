"""transformers 5 has one tokenizer, the fast one: under both names ours does what 4.40.2's RealmTokenizerFast does."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from golden.comparison import json_of
from golden.configurations import VOCABULARY
from golden.texts import CANDIDATE_CALLS, CANDIDATES
from golden.tokenizations import bare_special_tokens_masks, tokenization

import realm_core

NAMES = ["RealmTokenizer", "RealmTokenizerFast"]


def tokenized(name, section):
    """As the golden files have it: through JSON, which knows no tuples."""
    return json.loads(json.dumps(tokenization(getattr(realm_core, name), section)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("section", json_of("tokenizer_fast"))
def test_parity_with_the_fast_tokenizer(section, name):
    assert tokenized(name, section) == json_of("tokenizer_fast")[section]


@pytest.mark.parametrize("section", [section for section in json_of("tokenizer_slow") if section.startswith("texts")])
def test_parity_of_texts_with_the_slow_tokenizer(section):
    assert tokenized("RealmTokenizer", section) == json_of("tokenizer_slow")[section]


def test_parity_of_bare_special_tokens_masks():
    tokenizer = realm_core.RealmTokenizer(str(VOCABULARY))
    assert bare_special_tokens_masks(tokenizer) == json_of("special_tokens_masks")


@pytest.mark.parametrize("call", [call for call in CANDIDATE_CALLS if not call.startswith("truncated")])
@pytest.mark.parametrize(("kind", "expected_type"), [("pt", torch.Tensor), ("np", np.ndarray)])
def test_parity_of_candidates_as_tensors(call, kind, expected_type):
    tokenizer = realm_core.RealmTokenizer(str(VOCABULARY))
    batch = tokenizer.batch_encode_candidates(CANDIDATES, **CANDIDATE_CALLS[call], return_tensors=kind)
    assert all(isinstance(values, expected_type) for values in batch.values())
    assert {name: values.tolist() for name, values in batch.items()} == json_of("tokenizer_fast")["candidates"][call]
