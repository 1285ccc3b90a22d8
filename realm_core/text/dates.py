"""Dates in English prose, by grammar."""

from __future__ import annotations

import re

_MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.)"
)
_DAY = r"(?:[12]\d|3[01]|0?[1-9])(?:st|nd|rd|th)?"
_YEAR = r"(?:1\d{3}|20\d{2})"
_ERA = r"(?:BC|BCE|AD|CE|B\.C\.E?\.?|A\.D\.|C\.E\.)"
_CENTURY = (
    r"(?:\d{1,2}(?:st|nd|rd|th)|[Ff]irst|[Ss]econd|[Tt]hird|[Ff]ourth|[Ff]ifth|[Ss]ixth|[Ss]eventh|[Ee]ighth|[Nn]inth"
    r"|[Tt]enth|[Ee]leventh|[Tt]welfth|[A-Za-z]{3,5}teenth|[Tt]wentieth|[Tt]wenty-first)"
)
_RANGE = r"\s?[–—-]\s?"
_FORMS = (
    rf"{_MONTH} {_DAY}(?:{_RANGE}(?:{_MONTH} )?{_DAY})?,? {_YEAR}",
    rf"{_DAY}(?:{_RANGE}{_DAY})? {_MONTH},? {_YEAR}",
    rf"{_MONTH},? {_YEAR}",
    rf"{_MONTH} {_DAY}(?![\d,]*\d)",
    rf"{_DAY} {_MONTH}(?! [A-Z][a-z])",
    r"(?:1\d|20)\d0s",
    rf"{_CENTURY}[ -]centur(?:y|ies)(?: {_ERA})?",
    rf"\d{{1,4}}{_RANGE}\d{{1,4}} {_ERA}",
    r"(?:AD|A\.D\.) ?\d{1,4}",
    rf"\d{{1,4}} {_ERA}",
    rf"{_YEAR}{_RANGE}(?:{_YEAR}|\d\d)(?![\d–-])",
    rf"{_YEAR}-\d\d-\d\d",
)
_DATE = re.compile(rf"(?<![\w.,$£€#/-])(?:{'|'.join(_FORMS)})(?!\w)(?!,\d)")
_LONE_YEAR = re.compile(rf"(?<![\w.,$£€#/:–—-]){_YEAR}(?![\w/:%°]|[.,]\d|[–—-]\w)")
_BEFORE_A_YEAR = re.compile(
    r"(?:\b(?:[Ii]n|[Ss]ince|[Bb]y|[Uu]ntil|[Tt]ill|[Dd]uring|[Aa]fter|[Bb]efore|[Cc]irca|ca?\.|[Ee]arly|[Ll]ate|[Mm]id|"
    r"[Ff]rom|[Bb]etween|[Tt]hroughout|[Tt]he|[Oo]f|[Ss]pring|[Ss]ummer|[Aa]utumn|[Ff]all|[Ww]inter|born|died|year|"
    r"and|to|or|[Bb]oth|through|[Aa]n?|its|his|her|their) |[(;]|\d{4}, )$"
)
_A_QUANTITY = re.compile(
    r" (?!(?:was|has|is|as|its|his|this|across|towards|always|perhaps|thus|previous|various|famous)\b)"
    r"(?:[a-z]{2,}s|men|women|people|feet|foot|km|mi|ft|kg|lb|cm|mm|mph|million|billion|[kcm]m?[²³]|°|%)(?!\w)"
    r"|-(?:foot|mile|year|meter|metre|ft|km|mi)\b"
)


def date_offsets(sentence: str) -> list[tuple[int, int]]:
    """Half-open character offsets of dates, sorted and disjoint.

    A bare year counts only where a year is expected ("in 1865", "(1865)") and no plural follows ("in 1500 villages").
    """
    if not any(character.isdigit() for character in sentence) and "centur" not in sentence:
        return []
    found = [match.span() for match in _DATE.finditer(sentence)]
    for match in _LONE_YEAR.finditer(sentence):
        inside = any(start < match.end() and match.start() < stop for start, stop in found)
        if not inside and _is_year(sentence, match):
            found.append(match.span())
    return sorted(found)


def _is_year(sentence: str, match: re.Match[str]) -> bool:
    if _A_QUANTITY.match(sentence, match.end()):
        return False
    before = sentence[max(0, match.start() - 12) : match.start()]
    in_citation = before.endswith(" ") and sentence.startswith(")", match.end())  # "(Spain, 1936)"
    return in_citation or _BEFORE_A_YEAR.search(before) is not None
