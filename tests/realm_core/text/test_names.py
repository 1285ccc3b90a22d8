from __future__ import annotations

import pytest

from realm_core.text.names import name_offsets


def names(sentence):
    return [sentence[start:stop] for start, stop in name_offsets(sentence)]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Abraham Lincoln was born in Kentucky.", ["Abraham Lincoln", "Kentucky"]),
        ("The University of the Arts is in New York.", ["University of the Arts", "New York"]),
        ("In Paris he met Ludwig van Beethoven.", ["Paris", "Ludwig van Beethoven"]),
        ("It was Alexander the Great.", ["Alexander the Great"]),
        ("Then J. R. R. Tolkien and O'Brien joined NATO.", ["J. R. R. Tolkien", "O'Brien", "NATO"]),
        ("NATO was founded.", ["NATO"]),
        ("It was Lincoln's Gettysburg Address.", ["Lincoln", "Gettysburg Address"]),
        ("We saw Jean-Paul Sartre of the U.S. Army.", ["Jean-Paul Sartre of the U.S. Army"]),
        ("He was crowned King Edward VII in London.", ["King Edward VII", "London"]),
        ("Élan led to São Paulo and Ångström.", ["São Paulo", "Ångström"]),
        ("During World War II, Maj. Gen. Smith served.", ["World War II", "Maj. Gen. Smith"]),
        ("He quoted Jan van Eyck.", ["Jan van Eyck"]),
    ],
)  # fmt: skip
def test_names(sentence, expected):
    assert names(sentence) == expected


@pytest.mark.parametrize(
    "sentence",
    [
        "Researchers found nothing.",
        "The others left, and I stayed.",
        "However, in March it rained on Monday.",
        'He said: "Researchers found nothing."',
        "Plans of type A failed in part IV.",
        "The President spoke to the King.",
        "no capital letters here",
    ],
)
def test_common_words_are_no_names(sentence):
    assert names(sentence) == []
