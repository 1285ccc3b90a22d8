"""Cutting an article at its headings."""

from __future__ import annotations

import re

_HEADING = re.compile(r"^(={1,6})[ \t]*(.+?)[ \t]*\1[ \t]*(?:<[^\n]*)?$", re.MULTILINE)
_MARKUP = re.compile(r"\{\{[^{}]*\}\}|<[^<>]*>|['\[\]:.]")
_DROPPED_TEXT = """
    see also, references, external links, external link, further reading, notes, bibliography, footnotes, sources,
    citations, notes and references, references and notes, works cited, cited works, literature cited,
    selected bibliography, primary sources, secondary sources, endnotes, explanatory notes, general references, cited
    sources, other sources, source notes, notes and citations, citations and notes, footnotes and references,
    bibliography and references, references and further reading, further reading and external links, reading list,
    gallery, image gallery, photo gallery, discography, filmography, selected filmography, selected discography,
    external resources, external sources, external references, publications, selected publications, selected works,
    in-line notes, inline citations, notes and sources, sources and further reading
"""
_DROPPED = frozenset(" ".join(_DROPPED_TEXT.split()).split(", "))


def without_back_matter(markup: str) -> str:
    """The article without headings and without sections that hold no prose of its own (references, links, lists).

    A dropped section takes its subsections with it.
    """
    kept: list[str] = []
    dropped_level, position = 0, 0
    for heading in _HEADING.finditer(markup):
        if not dropped_level:
            kept.append(markup[position : heading.start()])
        position, level = heading.end(), len(heading[1])
        if not dropped_level or level <= dropped_level:
            name = " ".join(_MARKUP.sub("", heading[2]).lower().split())
            dropped_level = level if name in _DROPPED else 0
    if not dropped_level:
        kept.append(markup[position:])
    return "\n\n".join(kept)
