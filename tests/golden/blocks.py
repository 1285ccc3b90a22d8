"""Block records, questions and answers of the retriever and of open QA, in words of the vocabulary."""

from __future__ import annotations

import numpy as np
from golden.configurations import VOCABULARY
from golden.frozen import integers, real
from numpy.typing import NDArray

NUM_BLOCKS = 50
_FIRST_WORD, _LAST_WORD = "the", "warm"
_PLANTED = ("Alan Mathison Turing", "in 1844", "the Norwick bridge", "Queen of the café")
QUESTIONS = {
    "short": "Who built the old bridge?",
    "unknown words": "When did the quiz zoo open in München, 1969?",
    "apostrophe": "Who doesn't know that it's the mayor's garden , which he didn't like ?",
}
ANSWERS = {
    "one": ["alan mathison turing"],
    "several": ["in 1844", "norwick", "the norwick bridge", "bridge"],
    "frequent": ["the", "of", "in", "and", "a", "river", "year", "king"],
    "absent": ["hello world hello world hello"],
}


def block_records() -> NDArray[np.object_]:
    """50 blocks of 6 to 36 words as UTF-8 bytes; every third one holds a planted phrase."""
    lines = VOCABULARY.read_text(encoding="utf-8").splitlines()
    words = lines[lines.index(_FIRST_WORD) : lines.index(_LAST_WORD) + 1]
    return np.array([_block(number, words).encode() for number in range(NUM_BLOCKS)], dtype=object)


def _block(number: int, words: list[str]) -> str:
    length = int(integers(f"block {number} length", (), 6, 37))
    text = [words[index] for index in integers(f"block {number}", (length,), 0, len(words))]
    if number % 3 == 0:
        text.insert(number % 5, _PLANTED[number // 3 % len(_PLANTED)])
    return f"{text[0].capitalize()} {' '.join(text[1:])}."


def block_embeddings(projection_size: int) -> NDArray[np.float32]:
    """The embeddings [50, D] of the blocks; they need not come from an embedder."""
    return real("block_emb", (NUM_BLOCKS, projection_size))
