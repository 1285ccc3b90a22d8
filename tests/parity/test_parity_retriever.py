from __future__ import annotations

import pytest
from golden.comparison import json_of
from golden.retrievals import overlapping_answers, retrievals

import realm_core


@pytest.mark.parametrize("call", json_of("retriever_fast"))
@pytest.mark.parametrize("tokenizer", ["RealmTokenizer", "RealmTokenizerFast"])
def test_parity_of_joint_inputs_and_answers(tokenizer, call):
    assert retrievals(realm_core, tokenizer)[call] == json_of("retriever_fast")[call]


def test_parity_of_answers_that_overlap():
    assert overlapping_answers(realm_core) == json_of("overlapping_answers")
