from __future__ import annotations

import pytest

from realm_core.text.answers import contains_answer, normalize_answer


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel Tower!", "eiffel tower"),
        ("An apple, a day", "apple day"),
        ("U.S.", "us"),
        ("theatre", "theatre"),
        ("Café", "cafe\u0301"),
        ("the", ""),
    ],
)
def test_normalization(text, normal):
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("text", "answers", "expected"),
    [
        ("He was born in Paris, France.", ["paris"], True),
        ("A comparison.", ["paris"], False),
        ("The U.S. Army", ["U.S."], True),
        ("bus", ["US"], False),
        ("It cost 1,865 dollars.", ["865 dollars"], True),
        ("It cost 1865 dollars.", ["865 dollars"], False),
        ("in New\nYork City", ["york city"], True),
        ("Cafe\u0301 de Flore", ["CAFÉ"], True),
        ("Café", ["caf"], False),
        ("हिन्दी भाषा", ["हिन्दी"], True),
        ("anything", ["", "  "], False),
        ("anything", [], False),
        ("one of two", ["three", "two"], True),
    ],
)
def test_an_answer_is_found_on_token_boundaries(text, answers, expected):
    assert contains_answer(text, answers) is expected
