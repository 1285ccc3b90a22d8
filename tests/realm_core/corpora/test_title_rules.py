from __future__ import annotations

import pytest

from realm_core.corpora.title_rules import is_dropped_title


@pytest.mark.parametrize(
    "title",
    ["List of rivers", "Lists of films", "Index of law articles", "Outline of physics", "Ada (disambiguation)"],
)
def test_rows_of_names_are_dropped(title):
    assert is_dropped_title(title)


@pytest.mark.parametrize("title", ["Listeria", "Franz Liszt", "List", "The Index of Dreams", "Disambiguation"])
def test_articles_are_kept(title):
    assert not is_dropped_title(title)
