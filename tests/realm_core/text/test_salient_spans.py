from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realm_core.text.salient_spans import RuleTagger, SalientSpan, SpanKind


def test_dates_and_names_in_order():
    sentence = "On April 14, 1865, Booth shot Abraham Lincoln."
    assert RuleTagger().tag(sentence) == [
        SalientSpan(3, 17, SpanKind.DATE),
        SalientSpan(19, 24, SpanKind.NAME),
        SalientSpan(30, 45, SpanKind.NAME),
    ]


def test_a_date_wins_over_a_name_it_touches():
    assert [span.kind for span in RuleTagger().tag("He came to Rome in April 1865.")] == [SpanKind.NAME, SpanKind.DATE]


WORDS = [
    "April",
    "14,",
    "1865",
    "in",
    "In",
    "the",
    "of",
    "Lincoln",
    "J.",
    "U.S.",
    "(",
    ")",
    "19th",
    "century",
    "AD",
    "'s",
    "\n",
]


@given(st.lists(st.sampled_from(WORDS), max_size=15).map(" ".join) | st.text(max_size=40))
def test_spans_are_sorted_disjoint_and_inside(sentence):
    stop = 0
    for span in RuleTagger().tag(sentence):
        assert stop <= span.start < span.stop <= len(sentence)
        assert sentence[span.start : span.stop].strip() == sentence[span.start : span.stop]
        stop = span.stop
