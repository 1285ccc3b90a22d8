"""Wiki markup to plain paragraphs.

Regular expressions that match innermost constructs and are applied until nothing changes, not a parse tree: a whole
Wikipedia is cleaned six times faster than with mwparserfromhell, and of an article's markup only its prose is
wanted. Every pattern is linear in the text, and the depth of nesting that is followed is bounded.
"""

from __future__ import annotations

import html
import re

from realm_core.corpora.wikitext_links import external_link_text, wiki_link_text
from realm_core.corpora.wikitext_math import formula_text
from realm_core.corpora.wikitext_prose import prose_paragraphs
from realm_core.corpora.wikitext_sections import without_back_matter
from realm_core.corpora.wikitext_templates import template_text

_MAX_NESTING = 40
"""MediaWiki's own limit on the depth of templates."""


def _element(names: str) -> re.Pattern[str]:
    """An innermost `<name …>content</name>`; group 2 is the content. An opening tag without an end matches nothing."""
    return re.compile(
        rf"<({names})\b(?:[^<>/]|/(?!>))*>([^<]*(?:<(?!/?(?:{names})\b)[^<]*)*)</(?:{names})\s*>", re.IGNORECASE
    )


def _innermost(opening: str, closing: str) -> re.Pattern[str]:
    """`[[…]]` or `{{…}}` without another inside; single brackets inside are allowed, pairs of them first."""
    left, right = re.escape(opening), re.escape(closing)
    text = f"[^{left}{right}]*"
    single = f"(?>{left}{text}{right}(?!{right}(?!{right}))|{left}(?!{left})|{right}(?!{right}))"
    return re.compile(f"{left}{left}({text}(?:{single}{text})*){right}{right}")


_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_LITERAL = _element("nowiki")
_FORMULA = _element("math|ce|chem")
_UNWANTED = _element(
    "ref|references|gallery|timeline|imagemap|source|syntaxhighlight|pre|score|hiero|graph|mapframe|maplink|"
    "inputbox|templatestyles|section|del|strike|s|noinclude|categorytree|indicator"
)
_EMPTY_ELEMENT = re.compile(r"<(?:ref|references|section|templatestyles|nowiki)\b[^<>]*/>", re.IGNORECASE)
_TEMPLATE = _innermost("{", "}")
_LINK = _innermost("[", "]")
_EXTERNAL_LINK = re.compile(r"\[(?:https?:|ftp:|mailto:|news:)?//([^\[\]\n]*)\]|\[mailto:([^\[\]\n]*)\]", re.IGNORECASE)
_TRIPLE_BRACES = re.compile(r"\{\{\{([^{}]*)\}\}\}")
_TABLE = re.compile(r"^[:*#\s]*\{\|(?:(?!^[:*#\s]*\{\|).)*?^[ \t:*#]*\|\}(?!\})", re.MULTILINE | re.DOTALL)
_PREFORMATTED = re.compile(r"^(?: [^\n{}|\[\]]*\n){2,}", re.MULTILINE)
_HATNOTE = re.compile(r"^[:*]+\s*''(?:For|See|Main|Not to be|This article|Further|Note)\b.*$", re.MULTILINE)
_SUPERSCRIPT = re.compile(r"<sup\b[^<>]*>\s*([-+−–]?\d+[-+−–]?)\s*</sup\s*>", re.IGNORECASE)
_LINE_TAG = re.compile(r"</?(?:blockquote|p|div|center|ol|ul|dl|dd|dt|table|tr|td|th|hr|poem|h[1-6])\b[^<>]*>", re.I)
_BREAK = re.compile(r"<br\b[^<>]*>|<\\br>", re.IGNORECASE)
_ITEM = re.compile(r"<li\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_QUOTES = re.compile(r"'{2,5}")
_MAGIC_WORD = re.compile(r"__[A-Z]{3,}__")
_LITERAL_CHARACTERS = {ord(character): f"&#{ord(character)};" for character in "[]{}|'<>=*#:;_"}
_RAISED = str.maketrans("0123456789-+−–", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺⁻⁻")


def plain_paragraphs(markup: str) -> list[str]:
    """The prose of an article: plain text, one string a paragraph, in order.

    Templates, tables, references, files, categories and headings go, and so do the sections after the article proper.
    List items stay if they are sentences: names and links in rows hold nothing to mask or to read.
    """
    text = _COMMENT.sub("", markup)
    text = _LITERAL.sub(lambda match: match[2].translate(_LITERAL_CHARACTERS), text)
    text = _FORMULA.sub(lambda match: _escaped(formula_text(match[2])), text)
    text = _UNWANTED.sub("", _EMPTY_ELEMENT.sub("", _PREFORMATTED.sub("\n", text)))
    text = without_back_matter(text)
    text = _TABLE.sub("\n", _without_brackets(text))
    text = _without_tags(_HATNOTE.sub("", text))
    text = _MAGIC_WORD.sub("", _QUOTES.sub("", text))
    return prose_paragraphs(html.unescape(text))


def _escaped(text: str) -> str:
    return text.translate(_LITERAL_CHARACTERS)


def _without_brackets(text: str) -> str:
    """Links become their text, templates what `template_text` keeps of them; from the inside to the outside."""
    text = _TRIPLE_BRACES.sub("", text)
    for _ in range(_MAX_NESTING):
        text, num_links = _LINK.subn(lambda match: wiki_link_text(match[1]), text)
        text = _EXTERNAL_LINK.sub(lambda match: external_link_text(match[1] or ""), text)
        text, num_templates = _TEMPLATE.subn(lambda match: template_text(match[1]), text)
        if not num_links and not num_templates:
            break
    return text


def _without_tags(text: str) -> str:
    text = _SUPERSCRIPT.sub(lambda match: match[1].translate(_RAISED), text)
    text = _ITEM.sub("\n* ", _LINE_TAG.sub("\n\n", _BREAK.sub(" ", text)))
    return _TAG.sub("", text)
