"""Names in English prose, by capital letters."""

from __future__ import annotations

import re

_PARTICLES = (
    r"(?:of|of the|de|de la|de las|de los|del|della|di|da|do|dos|du|des|la|le|van|van der|van den|von|von der|zu|der"
    r"|den|ter|al|el|bin|ibn|ben|y|&"
    r"|the(?= (?:Great|Elder|Younger|Wise|Bold|Bald|Conqueror|Magnificent|Terrible|Baptist|Confessor|Pious)\b))"
)
_FUNCTION_WORDS_TEXT = """
    A An The This That These Those It Its He His Him She Her Hers They Their Them We Our Us You Your I My Me One Some
    Any All Both Each Every Many Most Much More Few Several Such Other Others Another No None Not Nor Only Own In On At
    By For From With Without Within As After Before During Since Until While When Where Whether Which Who Whom Whose
    What Why How Although Though However But And Or If Then Than There Here Thus Therefore Because Under Over Above
    Below Between Among Against Across Along Around About Through Throughout Toward Towards To Of Off Up Down Out Into
    Onto Upon Per Via Despite Besides Like Unlike According Following Based Given Once Soon So Now Today Yet Still Even
    Also Too Very Again Further Furthermore Moreover Nevertheless Nonetheless Meanwhile Instead Indeed Perhaps Later
    Earlier Finally Last Next Two Three Four Five Six Seven Eight Nine Ten Eleven Twelve Hundred Thousand Million Be Is
    Are Was Were Been Being Has Have Had Do Does Did Can Could Might Must Shall Should Would Let See Note Yes Recent
    Recently Unless Except Including Especially Often Sometimes Usually Generally Typically Originally Initially
    Currently Historically Eventually Subsequently Additionally Similarly Consequently Conversely Specifically Together
    Apart Rather Just Almost Nearly Approximately Various Different Certain Same Born Named Called Mr Mrs Ms AD BC BCE
    CE AM PM OK etc
"""
_FUNCTION_WORDS = frozenset(_FUNCTION_WORDS_TEXT.split())
"""Cut off at either end of a run."""
_NO_NAMES_ALONE_TEXT = """
    First Second Third New Old Early Late Modern Ancient Main Will May Dr St Chapter Section Part Volume Figure Table
    Book Page Act Article Articles President King Queen Prince Princess Emperor Pope Sir Lady Lord General Colonel
    Captain Professor Senator Governor Minister Western Eastern Northern Southern North South East West Total
"""
_NO_NAMES_ALONE = frozenset(_NO_NAMES_ALONE_TEXT.split())
"""Parts of names ("New York", "King Edward") that are none by themselves."""
_CALENDAR_TEXT = """
    January February March April May June July August September October November December Monday Tuesday
    Wednesday Thursday Friday Saturday Sunday
"""
_CALENDAR = frozenset(_CALENDAR_TEXT.split())
_ROMAN_NUMERAL = re.compile(r"[IVXLCDM]+$")
_NO_SPACE = re.compile(r"\S+")
_SENTENCE_OPENERS = " \t\"'“‘«([—–-…"


_UPPER = f"[{''.join(chr(code) for code in range(0x2000) if chr(code).isupper())}]"
_INITIALS = rf"(?:{_UPPER}\.){{1,4}}(?=[ ,;:)]|{_UPPER})"
_TITLE = rf"(?:St|Mt|Ft|Dr|Jr|Sr|Gen|Maj|Col|Lt|Capt|Sgt|Brig|Rev|Sen|Rep|Prof|Gov)\.(?= {_UPPER})"
_WORD = rf"(?:{_UPPER}['’])?{_UPPER}\w*(?:-{_UPPER}\w*|['’](?!s\b)\w+)*"
_TOKEN = f"(?:{_INITIALS}|{_TITLE}|{_WORD})"
_RUN = re.compile(rf"(?<![\w.@/'’&-]){_TOKEN}(?: (?:{_PARTICLES} )?{_TOKEN}|(?<=\.){_TOKEN})*")


def name_offsets(sentence: str) -> list[tuple[int, int]]:
    """Half-open character offsets of names, sorted and disjoint: runs of capitalized words with particles inside.

    Function words at either end are cut off. A single word at the beginning of the sentence or of a quotation counts
    only if it is an acronym, since there every word is capitalized.
    """
    found = []
    for match in _RUN.finditer(sentence):
        start, stop = _trimmed(sentence, match.start(), match.end())
        if start < stop and _is_name(sentence, start, stop, opened=_opens(sentence, start)):
            found.append((start, stop))
    return found


def _trimmed(sentence: str, start: int, stop: int) -> tuple[int, int]:
    words = [match.span() for match in _NO_SPACE.finditer(sentence, start, stop)]
    while words and _is_common(sentence[slice(*words[0])]):
        words.pop(0)
    while words and _is_common(sentence[slice(*words[-1])]):
        words.pop()
    return (words[0][0], words[-1][1]) if words else (stop, stop)


def _is_common(word: str) -> bool:
    return word in _FUNCTION_WORDS or word in _CALENDAR or word[0].islower() or word == "&"


def _opens(sentence: str, start: int) -> bool:
    """True where a capital letter says nothing: at the start of the sentence, of a quotation, after a colon."""
    before = sentence[:start].rstrip(" ")
    return not before.strip(_SENTENCE_OPENERS) or before[-1] in '"“‘:«'


def _is_name(sentence: str, start: int, stop: int, *, opened: bool) -> bool:
    name = sentence[start:stop]
    if " " in name:
        return True
    if name in _NO_NAMES_ALONE:
        return False
    letters = name.rstrip(".")
    if len(letters) < 2 or _ROMAN_NUMERAL.match(letters):
        return False
    return letters.isupper() or not opened
