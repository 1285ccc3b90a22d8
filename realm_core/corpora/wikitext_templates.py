"""The few templates whose text belongs into a sentence; all others are dropped.

A table, so that a template costs one line: name in lower case -> what to keep. `{1}`, `{2}` are positional parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_FIRST_TEXT = """
    abbr, angbr, angle bracket, big, bigger, em, flag, flagcountry, flagu, hebrew, iast, ill, interlanguage link, ipa,
    ipa-all, kbd, keyb, keypress, larger, linktext, math, mono, mvar, native name, nihongo, no wrap, nobold, nobr, not
    a typo, nowrap, polytonic, proper name, resize, respell-word, rtl-lang, sans-serif, sc, script, serif, sic, sm,
    small, smallcaps, smaller, strong, sub, sup, tooltip, tt, unicode, vanchor, var, visible anchor, vr
"""
_FIRST = " ".join(_FIRST_TEXT.split()).split(", ")
_BLOCK_QUOTES = ("quote", "quotation", "cquote", "blockquote", "bquote", "centered pull quote")
_SHIPS = ("USS", "HMS", "SS", "RMS", "MV", "MS", "HMAS", "HMCS", "SMS", "USCGC", "USNS", "HMNZS", "INS", "ORP")
_CURRENCIES = {"us$": "$", "usd": "$", "a$": "A$", "gbp": "£", "£": "£", "pound": "£", "€": "€", "eur": "€", "inr": "₹"}

_PATTERNS: dict[str, str] = {
    **dict.fromkeys(_FIRST, "{1}"),
    **dict.fromkeys(_BLOCK_QUOTES, "\n\n{1}\n\n"),
    **{ship.lower(): f"{ship} {{1}}" for ship in _SHIPS},
    **{name: f"{sign}{{1}}" for name, sign in _CURRENCIES.items()},
    **dict.fromkeys(("lang", "color", "font color", "fontcolor", "audio", "script/hebrew"), "{2}"),
    **dict.fromkeys(("circa", "c."), "c. {1}"),
    **dict.fromkeys(("floruit", "fl."), "fl. {1}"),
    **dict.fromkeys(("snd", "spaced ndash", "spnd", "spaced en dash", "dash"), " – "),
    **dict.fromkeys(("ndash", "en dash"), "–"),
    **dict.fromkeys(("mdash", "em dash"), "—"),
    **dict.fromkeys(("nbsp", "spaces", "space", "thinsp", "thin space", "pipe", "hair space"), " "),
    **dict.fromkeys(("'", "apostrophe"), "'"),
    "'s": "'s",
    "=": "=",
    "nsmdns": " – ",
    "e": "×10^{1}",
    "10^": "10^{1}",
    "oldstyledate": "{1}",
    "sclass": "{1}-class {2}",
}
_MONTHS_TEXT = "January February March April May June July August September October November December"
_MONTHS = _MONTHS_TEXT.split()
_RANGE_WORDS = {"-": "–", "–": "–", "to": " to ", "and": " and ", "or": " or ", "by": " by ", "x": " × ", "×": " × ",
                "to(-)": " to ", "+": " + ", "+/-": " ± ", "±": " ± ", "*": " × ", ",": ", "}  # fmt: skip
_UNITS = {"sqmi": "sq mi", "km2": "km²", "m2": "m²", "cm2": "cm²", "ft2": "sq ft", "sqft": "sq ft", "m3": "m³",
          "km3": "km³", "ft3": "cu ft", "cuft": "cu ft", "C": "°C", "F": "°F", "C-change": "°C", "F-change": "°F",
          "mph": "mph", "kmh": "km/h", "km/h": "km/h", "deg": "°", "e6km": "million km", "ST": "tons"}  # fmt: skip
_NUMBER = re.compile(r"[-−+]?[\d.,⁄/ ]*\d$")
_NAMED = re.compile(r"\s*([\w .'-]*)\s*=(.*)", re.DOTALL)
_PARAMETER = re.compile(r"\{(\d)\}")


def template_text(content: str) -> str:
    """What stays of `{{content}}`: plain words, or nothing. Inner templates and links are plain text already."""
    name, *arguments = content.split("|")
    name = name.replace("_", " ").strip().lower()
    if name.startswith("formatnum:"):
        return name.removeprefix("formatnum:")
    pattern = _PATTERNS.get(name)
    if pattern is None and name not in _RENDERERS:
        pattern = _foreign_word_pattern(name)
        if pattern is None:
            return ""
    parameters = _parameters(arguments)
    if pattern is None:
        return _RENDERERS[name](parameters)
    return _PARAMETER.sub(lambda match: parameters.get(match[1], ""), pattern)


def _foreign_word_pattern(name: str) -> str | None:
    """`{{lang-de|Wort}}` keeps its word."""
    return "{1}" if name.startswith("lang-") else None


def _parameters(arguments: list[str]) -> dict[str, str]:
    parameters: dict[str, str] = {}
    position = 0
    for argument in arguments:
        if named := _NAMED.match(argument):
            parameters[named[1].strip().lower()] = named[2].strip()
        else:
            position += 1
            parameters[str(position)] = argument.strip()
    for alias in ("text", "quote"):
        if alias in parameters:
            parameters.setdefault("1", parameters[alias])
    return parameters


def _positional(parameters: dict[str, str]) -> list[str]:
    return [value for key, value in parameters.items() if key.isdigit()]


def _convert(parameters: dict[str, str]) -> str:
    """`{{convert|5|to|10|km|mi}}` -> "5 to 10 km": the figure as given, without the conversion."""
    text = ""
    values = _positional(parameters)
    for index, value in enumerate(values):
        if _NUMBER.match(value):
            text += f"{int(value):,}" if value.isdigit() else value
        elif value in _RANGE_WORDS and index + 1 < len(values) and _NUMBER.match(values[index + 1]):
            text += _RANGE_WORDS[value]
        else:
            return f"{text} {_UNITS.get(value, value)}" if text else ""
    return text


def _fraction(parameters: dict[str, str]) -> str:
    values = _positional(parameters)
    whole = f"{values[0]} " if len(values) == 3 else ""
    return whole + "/".join(values[-2:] if len(values) > 1 else ("1", *values))


def _value(parameters: dict[str, str]) -> str:
    exponent = f"×10^{parameters['e']}" if "e" in parameters else ""
    unit = parameters.get("u", parameters.get("ul", ""))
    return f"{parameters.get('1', '')}{exponent} {unit}".strip()


def _as_of(parameters: dict[str, str]) -> str:
    year, month, day = (parameters.get(key, "") for key in "123")
    if month.isdigit() and 1 <= int(month) <= 12:
        month = _MONTHS[int(month) - 1]
    words = "as of" if "lc" in parameters or "since" in parameters else "As of"
    return parameters.get("alt") or " ".join(filter(None, (words, day, month, year)))


def _joined(parameters: dict[str, str]) -> str:
    return "".join(_positional(parameters))


def _last(parameters: dict[str, str]) -> str:
    return (_positional(parameters) or [""])[-1]


_RENDERERS: dict[str, Callable[[dict[str, str]], str]] = {
    "convert": _convert,
    "cvt": _convert,
    "frac": _fraction,
    "fraction": _fraction,
    "sfrac": _fraction,
    "val": _value,
    "as of": _as_of,
    "chem": _joined,
    "chem2": _joined,
    "transl": _last,
    "transliteration": _last,
    "tlit": _last,
}
