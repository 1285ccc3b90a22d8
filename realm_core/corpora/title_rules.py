"""Which articles are dropped by their title alone."""

from __future__ import annotations

_DROPPED_PREFIXES = ("list of ", "lists of ", "index of ", "outline of ")


def is_dropped_title(title: str) -> bool:
    """True for lists, indexes, outlines and disambiguations: names in rows, no sentences (ORQA's rule).

    Departs from the reference in that upper and lower case are the same, and in `Lists of …`.
    """
    lowered = title.lower()
    return lowered.startswith(_DROPPED_PREFIXES) or "(disambiguation)" in lowered
