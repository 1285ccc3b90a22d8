"""Formulas in running text: what can be said in a line of Unicode stays, the rest is dropped."""

from __future__ import annotations

import re

_GREEK_NAMES = """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi omega
    Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega
"""
_GREEK_LETTERS = "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ"
_SYMBOLS = {
    **dict(zip(_GREEK_NAMES.split(), _GREEK_LETTERS, strict=True)),
    "varepsilon": "ε", "varphi": "φ", "times": "×", "cdot": "·", "pm": "±", "le": "≤", "leq": "≤", "ge": "≥",
    "geq": "≥", "ne": "≠", "neq": "≠", "approx": "≈", "in": "∈", "infty": "∞", "to": "→", "rightarrow": "→",
    "ldots": "…", "dots": "…", "cdots": "…", "circ": "°", "degree": "°", "sim": "~", "subset": "⊂", "cup": "∪",
    "cap": "∩", "ell": "ℓ", "hbar": "ħ", "partial": "∂", "nabla": "∇", "forall": "∀", "exists": "∃", "land": "∧",
    "lor": "∨", "neg": "¬", "equiv": "≡", "log": "log", "ln": "ln", "sin": "sin", "cos": "cos", "tan": "tan",
    "exp": "exp", "min": "min", "max": "max", "lim": "lim", "quad": " ", "displaystyle": "", "textstyle": "",
    "left": "", "right": "",
}  # fmt: skip
_COMMAND = re.compile(r"\\([A-Za-z]+)\s*")
_FONT = re.compile(r"\\(?:mathrm|mathbf|mathit|mathcal|mathbb|text|textbf|textit|operatorname|boldsymbol)\s*")
_SPACE = re.compile(r"\\[,;:! ]|~")
_MAX_CHARACTERS = 40


def formula_text(tex: str) -> str:
    """A short formula without fractions, sums or layout as Unicode text, or nothing.

    `E = mc^2` and `\\alpha_i \\le 1` read well in a sentence; a matrix or an integral only costs tokens.
    """
    text = _FONT.sub("", _SPACE.sub(" ", tex))
    text = _COMMAND.sub(lambda match: _SYMBOLS.get(match[1], "\\"), text)
    text = " ".join(text.replace("{", "").replace("}", "").split())
    return "" if "\\" in text or "&" in text or len(text) > _MAX_CHARACTERS else text
