"""Comparing answers with text: SQuAD's normalization, and DPR's rule for "this text holds the answer"."""

from __future__ import annotations

import re
import string
import sys
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces (SQuAD 1.1's evaluation), after Unicode NFD (DPR's)."""
    decomposed = unicodedata.normalize("NFD", text).lower()
    return " ".join(_ARTICLES.sub(" ", decomposed.translate(_PUNCTUATION)).split())


def contains_answer(text: str, answers: Iterable[str]) -> bool:
    """Whether the tokens of one of `answers` stand in `text` in a row (DPR's `has_answer`, upper and lower case alike).

    Tokens are runs of letters, digits and combining marks, or single other characters: "art" is not in "Bart's party".
    An answer without tokens is in no text.
    """
    haystack = f" {' '.join(_tokens(text))} "
    needles = (" ".join(_tokens(answer)) for answer in answers)
    return any(needle and f" {needle} " in haystack for needle in needles)


def _tokens(text: str) -> list[str]:
    return _token_pattern().findall(unicodedata.normalize("NFD", text).lower())


@lru_cache(maxsize=1)
def _token_pattern() -> re.Pattern[str]:
    basic_plane = range(min(sys.maxunicode, 0xFFFF) + 1)
    marks = "".join(chr(code) for code in basic_plane if unicodedata.category(chr(code))[0] == "M")
    return re.compile(rf"(?:[^\W_]|[{marks}])+|[^\s]")
