from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_core.text.sentences import sentence_offsets


def split(text):
    return [text[start:stop] for start, stop in sentence_offsets(text)]


@pytest.mark.parametrize(
    "sentences",
    [
        ["He came.", "She left!", "Why?", "Nobody knows…", "So be it."],
        ["Dr. Smith met Gen. Lee of the U.S. Army in St. Louis.", "It rained."],
        ["J. R. R. Tolkien and George W. Bush met.", "They talked."],
        ["He moved to the U.S.", "The war began."],
        ["Pi is 3.14 or so.", "See No. 5 and pp. 10, i.e. the end.", "Fine."],
        ['"Is it?" she asked.', '"Yes!"', "He nodded.", "(It was true.)", "[So.]"],
        ["He said “no.”", "She said ‘yes.’", "Then they left."],
        ["Some, e.g. Plato, disagree.", "Smith et al. agree vs. Jones."],
        ["It weighs 5 kg.", "$5 was the price.", "2 men came."],
        ["Martin Luther King Jr. was born.", "He founded Acme Inc.", "In 1960 it failed."],
        ["He lived in the 4th century B.C. and wrote.", "Élan is a word."],
        ["The first one.[3]", "The second one."],
        ["Yahoo! is a firm.", "Who? me."],
        ["1. The first item is here."],
        ["東京は首都です。", "人口は多い。"],
    ],
)
def test_boundaries(sentences):
    joiner = "" if sentences[0].startswith("東") else " "
    assert split(joiner.join(sentences)) == sentences


def test_offsets_leave_out_the_space_between():
    assert sentence_offsets("  One.  Two. ") == [(2, 6), (8, 12)]
    assert sentence_offsets("") == sentence_offsets(" \n ") == []


@given(st.text(alphabet=st.sampled_from(list("aB1 .!?…\"')([。\n\u00a0é")), max_size=80))
def test_offsets_are_in_order_and_lose_nothing_but_space(text):
    offsets = sentence_offsets(text)
    stops = [0, *(stop for _, stop in offsets)]
    assert all(previous <= start < stop for previous, (start, stop) in zip(stops, offsets, strict=False))
    assert all(text[start:stop] == text[start:stop].strip() for start, stop in offsets)
    assert "".join("".join(sentence.split()) for sentence in split(text)) == "".join(text.split())
