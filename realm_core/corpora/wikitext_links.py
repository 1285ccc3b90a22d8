"""The visible text of links."""

from __future__ import annotations

import re

_NO_TEXT = re.compile(
    r"\s*(?:file|image|media|category|datei|bild|kategorie|fichier|catégorie|archivo|categoría|immagine|categoria)\s*:",
    re.IGNORECASE,
)
_OTHER_LANGUAGE = re.compile(r"\s*(?:[a-z]{2,3}|simple|[a-z]{2,3}-[a-z-]{2,12})\s*:\S")


def wiki_link_text(content: str) -> str:
    """What a reader sees of `[[content]]`: the label, else the target; nothing of files, categories and languages."""
    if _NO_TEXT.match(content):
        return ""
    target, bar, label = content.partition("|")
    if bar:
        return label.strip("|") if label.strip() else target
    return "" if _OTHER_LANGUAGE.match(target) else target.lstrip(" :")


def external_link_text(content: str) -> str:
    """What a reader sees of `[https://content]`: the label behind the address, else nothing."""
    _, _, label = content.partition(" ")
    return label.strip()
