from __future__ import annotations

import pytest

from realm_core.text.dates import date_offsets


def dates(sentence):
    return [sentence[start:stop] for start, stop in date_offsets(sentence)]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("He died on April 14, 1865, in Washington.", ["April 14, 1865"]),
        ("He died on 14 April 1865.", ["14 April 1865"]),
        ("Born 4th July 1776 or Sept. 3, 1783.", ["4th July 1776", "Sept. 3, 1783"]),
        ("In April 1865 the war ended.", ["April 1865"]),
        ("In 1865 the war ended, as it had begun by 1861.", ["1865", "1861"]),
        ("The war (1861–1865) and the war of 1939-45.", ["1861–1865", "1939-45"]),
        ("It was the 1860s, late in the 19th century.", ["1860s", "19th century"]),
        ("From the fifth century BC to 79 AD, or AD 80.", ["fifth century BC", "79 AD", "AD 80"]),
        ("On July 4 they met, and on 5 July again.", ["July 4", "5 July"]),
        ("Smith (Spain, 1936) says so; see Jones (1940).", ["1936", "1940"]),
        ("A 1997 film and its 2014 sequel.", ["1997", "2014"]),
        ("Signed on 1999-12-31.", ["1999-12-31"]),
    ],
)
def test_dates(sentence, expected):
    assert dates(sentence) == expected


@pytest.mark.parametrize(
    "sentence",
    [
        "It has 1500 inhabitants.",
        "They live in 1500 villages.",
        "It cost $1900 or £1,865.",
        "A 1000 ft wide crater at 1435 mm.",
        "Version 2.2014 of ISO 8601.",
        "The 1500-mile road at 1865/2.",
        "It may march on.",
        "No digits at all.",
    ],
)
def test_quantities_are_no_dates(sentence):
    assert dates(sentence) == []
