from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_core.corpora.wikitext import plain_paragraphs


def one(markup: str) -> str:
    """The only paragraph of `A … .`, so that fragments count as prose."""
    (paragraph,) = plain_paragraphs(f"Here it is: {markup} and so on.")
    return paragraph.removeprefix("Here it is: ").removesuffix("and so on.").strip()


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("'''Bold''' ''italic'' '''''both'''''", "Bold italic both"),
        ("[[Paris]]", "Paris"),
        ("[[Paris|the city]]s", "the citys"),
        ("[[Paris#History|]]", "Paris#History"),
        ("[[File:a.jpg|thumb|A [[nested|link]] and {{convert|5|km}} in [brackets]]]x", "x"),
        ("[[Category:Cities]]x[[de:Paris]]", "x"),
        ("[[:Category:Cities]]", "Category:Cities"),
        ("[https://example.org/a the label] x", "the label x"),
        ("x [https://example.org]", "x"),
        ("[https://example.org a [[nested|link]]] x", "a link x"),
        ("[[Paris|the [big] city]] {{nowrap|a {b} c}}", "the [big] city a {b} c"),
        ("a<ref name=x>Smith {{p.|3}} <b>1</b></ref>b<ref name=x/>c<ref name='y' />", "abc"),
        ("a<!-- hidden [[x]] {{y}} -->b", "ab"),
        ("a &amp; b&nbsp;c &ndash; d &lt;e&gt;", "a & b c – d <e>"),
        ("H<sub>2</sub>O 10<sup>6</sup> m<sup>−2</sup> 1<sup>st</sup>", "H2O 10⁶ m⁻² 1st"),
        ("a<br />b<br>c", "a b c"),
        ("<span style='x'>a</span> <small>b</small>", "a b"),
        ("<nowiki>[[no link]]</nowiki>", "no link"),
        ("<math>E = mc^2</math>", "E = mc^2"),
        (r"<math>\alpha_i \le \mathrm{max}</math>", "α_i ≤max"),
        (r"x <math>\frac{a}{b}</math>", "x"),
        ("__NOTOC__x", "x"),
        ("a\u200bb\u00adc", "abc"),
        ("unclosed {{template", "unclosed template"),
        ("unclosed [[link", "unclosed link"),
        ("closed too often}} ]]x", "closed too often x"),
    ],
)
def test_inline_markup(markup, text):
    assert one(markup) == text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("{{convert|5|km}}", "5 km"),
        ("{{convert|5|to|10|km|mi|abbr=on}}", "5 to 10 km"),
        ("{{Convert|106400000|km2|sqmi}}", "106,400,000 km²"),
        ("{{cvt|1,300|mi}}", "1,300 mi"),
        ("{{lang|fr|bonjour}} {{lang-de|Wort}}", "bonjour Wort"),
        ("{{nowrap|a [[b|c]] d}}", "a c d"),
        ("{{nowrap|1=a = b}}", "a = b"),
        ("{{as of|2014|4|lc=y}}", "as of April 2014"),
        ("{{frac|3|1|2}} {{frac|3}}", "3 1/2 1/3"),
        ("{{val|1.5|e=6|u=km}}", "1.5×10^6 km"),
        ("{{chem|H|2|O}}", "H2O"),
        ("{{circa|1850}}", "c. 1850"),
        ("{{USS|Enterprise|CVN-65}}", "USS Enterprise"),
        ("{{transl|ar|DIN|salām}}", "salām"),
        ("1914{{ndash}}18", "1914–18"),
        ("{{unknown|{{nested|{{deep|x}}}}|y}}x", "x"),
        ("x {{citation needed|date=May 2015}}", "x"),
        ("{{{parameter|default}}}x", "x"),
    ],
)
def test_inline_templates(markup, text):
    assert one(markup) == text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("Ada ({{IPAc-en|a}}; {{lang-x}}) was", "Ada was"),
        ("Ada ({{IPA-de|a}}; born 1815) was", "Ada (born 1815) was"),
        ("Ada (born 1815; {{x}}) was", "Ada (born 1815) was"),
        ("Ada (pronounced {{IPAc-en|a}}) was", "Ada was"),
        ("Ada {{x}}, {{y}}, a writer {{z}} .", "Ada, a writer."),
    ],
)
def test_gaps_of_dropped_templates_are_closed(markup, text):
    assert one(markup) == text


ARTICLE = """{{Infobox person
| name = Ada
| text = {{nowrap|a}} and {| inner
|}
}}
:''For other uses, see [[Ada (disambiguation)]].''
'''Ada''' was a writer.<ref>
== Not a heading ==
</ref>
She wrote programs.

{| class="wikitable"
|-
! Year || Work
|-
| 1843 || {| nested
| cell that is a sentence.
|}
|}
== Life ==
{{main|Life of Ada}}
* She was born in London in 1815.
* [[London]]
# They moved to the country later.
;Works
:An indented quotation is prose.
<gallery>
File:A.jpg|A caption that is a sentence.
</gallery>
There are three kinds:
 first = line(of, code)
 second = line(of, code)

=== Notes ===
Dropped with its level.
==== Deeper ====
Dropped as well.
=== Death ===
She died in 1852.
== See also ==
* A sentence in a dropped section.
== External links ==
* [http://example.org A site with a sentence.]
{{Authority control}}
[[Category:Writers]]
"""


def test_an_article():
    assert plain_paragraphs(ARTICLE) == [
        "Ada was a writer. She wrote programs.",
        "She was born in London in 1815.",
        "They moved to the country later.",
        "An indented quotation is prose.",
        "She died in 1852.",
    ]


def test_quotations_are_paragraphs_of_their_own():
    assert plain_paragraphs("He said this. {{quote|Words are wind and rain.|Ada}} Then he left it.") == [
        "He said this.",
        "Words are wind and rain.",
        "Then he left it.",
    ]


def test_nothing_but_markup_is_no_paragraph():
    assert plain_paragraphs("{{a}}\n[[File:x.png]]\n{|\n| A sentence in a cell.\n|}\n==B==\n") == []


MARKS = (
    "{{ }} {{{ [[ ]] [ ] { } {| |} | <ref> </ref> <ref/> <!-- --> == ''' * a <nowiki> </nowiki> <math> </math> File:"
)
MARKUP = st.lists(st.sampled_from([*MARKS.split(), " ", "\n", "Words of prose. ", "convert|5|"])).map("".join)


@given(MARKUP)
def test_no_markup_whatsoever_leaks_or_breaks_it(markup):
    for paragraph in plain_paragraphs(markup):
        assert paragraph == " ".join(paragraph.split())
        assert not any(mark in paragraph for mark in ("{{", "}}", "[[", "]]", "{|", "|}", "<ref", "</ref", "\n"))


@pytest.mark.parametrize(
    "unit",
    [
        "{{",
        "[[",
        "{|\n",
        "<ref>",
        "<!--",
        "(",
        "; ",
        "=",
        "'",
        "{{a|",
        "}}",
        "{{x}}",
        "<s>",
        "[http://",
        "__A",
        "(;;;;;;",
        "{a}",
        "[[File:a|",
    ],
)
def test_hostile_markup_takes_no_more_than_linear_time(unit):
    started = time.perf_counter()
    plain_paragraphs(unit * (100_000 // len(unit)))
    assert time.perf_counter() - started < 5  # quadratic would take minutes
