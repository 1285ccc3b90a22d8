"""The blocks that embedding is measured on: real SQuAD paragraphs, in two forms, drawn with a seed.

Shapes: R rows.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from realm_core.errors import SourceError, UsageError
from realm_core.text.sentences import sentence_offsets

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

Form = Literal["paragraphs", "packed"]
FORMS: tuple[Form, ...] = ("paragraphs", "packed")
MAX_BLOCK_TOKENS = 288
NUM_MARKERS = 3
"""[CLS] title [SEP] body [SEP]."""
ROWS_PER_RUN = 32
"""The batch size of sentence-transformers."""
FEWEST_RANGES = 4


@dataclass(frozen=True, slots=True)
class Document:
    """An article."""

    title: str
    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Blocks:
    """R blocks, as texts and as token ids without markers."""

    titles: list[str]
    bodies: list[str]
    title_ids: list[np.ndarray]
    body_ids: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.titles)

    @cached_property
    def lengths_R(self) -> np.ndarray:  # noqa: N802 - shape letters
        """Tokens of each block, markers included."""
        pairs = zip(self.title_ids, self.body_ids, strict=True)
        return np.array([len(title) + len(body) + NUM_MARKERS for title, body in pairs], dtype=np.int64)

    def take(self, rows: Iterable[int]) -> Blocks:
        """Some of them, in the order of `rows`."""
        chosen = list(rows)
        return Blocks(
            titles=[self.titles[row] for row in chosen],
            bodies=[self.bodies[row] for row in chosen],
            title_ids=[self.title_ids[row] for row in chosen],
            body_ids=[self.body_ids[row] for row in chosen],
        )

    def save(self, path: Path) -> None:
        """Writes JSON, which any environment can read."""
        ids = {"title_ids": self.title_ids, "body_ids": self.body_ids}
        lists = {name: [row.tolist() for row in rows] for name, rows in ids.items()}
        path.write_text(json.dumps({"titles": self.titles, "bodies": self.bodies, **lists}))


def load_blocks(path: Path) -> Blocks:
    """What `Blocks.save` wrote."""
    columns = json.loads(path.read_text())
    for name in ("title_ids", "body_ids"):
        columns[name] = [np.array(ids, dtype=np.uint16) for ids in columns[name]]
    return Blocks(**columns)


def read_documents(data: Path) -> list[Document]:
    """Documents of JSON lines, plain or in gzip: of the file, or of `squad/documents.jsonl.gz` in the folder.

    Raises:
        SourceError: nothing is there, or a line is no document.
    """
    return [_document(fields, data) for fields in read_json_lines(data, "squad/documents.jsonl.gz")]


def read_json_lines(data: Path, name: str) -> Iterator[dict[str, Any]]:
    """The objects of a file, or of the file `name` in a folder.

    Raises:
        SourceError: nothing is there, or it is no JSON lines.
    """
    path = data / name if data.is_dir() else data
    if not path.exists():
        raise _no_data(path, "no such file")
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            yield from (json.loads(line) for line in file)
    except (OSError, ValueError) as error:
        raise _no_data(path, str(error)) from error


def _document(fields: dict[str, Any], data: Path) -> Document:
    if "title" not in fields or "paragraphs" not in fields:
        raise _no_data(data, f"a line with the keys {sorted(fields)}")
    return Document(fields["title"], tuple(" ".join(text.split()) for text in fields["paragraphs"]))


def _no_data(path: Path, found: str) -> SourceError:
    return SourceError(
        where=str(path),
        found=found,
        expected='JSON lines of articles, {"title": …, "paragraphs": [...]}',
        action="Name the folder that has squad/documents.jsonl.gz, or such a file, with --data.",
    )


def make_blocks(documents: list[Document], tokenizer: Tokenizer, form: Form) -> Blocks:
    """`paragraphs`: one block each, cut at 288 tokens; `packed`: whole sentences up to 288 tokens (ORQA's rule)."""
    bare = without_limits(tokenizer)
    cut = _paragraphs if form == "paragraphs" else _packed
    columns: list[tuple[str, str, list[int], list[int]]] = []
    for document in documents:
        title = bare.encode(document.title, add_special_tokens=False).ids[: (MAX_BLOCK_TOKENS - NUM_MARKERS) // 2]
        pieces = cut(document, bare, MAX_BLOCK_TOKENS - NUM_MARKERS - len(title))
        columns += [(document.title, body, title, ids) for body, ids in pieces if ids]
    titles, bodies, title_ids, body_ids = zip(*columns, strict=True)
    as_arrays = ([np.array(ids, dtype=np.uint16) for ids in lists] for lists in (title_ids, body_ids))
    return Blocks(list(titles), list(bodies), *as_arrays)


def sentence_blocks(documents: list[Document], tokenizer: Tokenizer, *, longest_tokens: int) -> Blocks:
    """One block per sentence, without titles and cut at `longest_tokens`: many small blocks."""
    texts = [t[a:b] for document in documents for t in document.paragraphs for a, b in sentence_offsets(t)]
    encodings = without_limits(tokenizer).encode_batch(texts, add_special_tokens=False)
    rows = [(text, e.ids[: longest_tokens - NUM_MARKERS]) for text, e in zip(texts, encodings, strict=True) if e.ids]
    nothing = np.array([], dtype=np.uint16)
    return Blocks(
        [""] * len(rows), [text for text, _ in rows], [nothing] * len(rows), [np.array(i, np.uint16) for _, i in rows]
    )


def without_limits(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that neither truncates nor pads."""
    bare = type(tokenizer).from_str(tokenizer.to_str())
    bare.no_truncation()
    bare.no_padding()
    return bare


def _paragraphs(document: Document, tokenizer: Tokenizer, max_tokens: int) -> Iterator[tuple[str, list[int]]]:
    for text, encoding in _encoded(document.paragraphs, tokenizer):
        yield text, encoding.ids[:max_tokens]


def _packed(document: Document, tokenizer: Tokenizer, max_tokens: int) -> Iterator[tuple[str, list[int]]]:
    sentences = [text[start:stop] for text in document.paragraphs for start, stop in sentence_offsets(text)]
    texts: list[str] = []
    ids: list[int] = []
    for sentence, encoding in _encoded(sentences, tokenizer):
        for text, piece in _pieces(sentence, encoding, max_tokens):
            if ids and len(ids) + len(piece) > max_tokens:
                yield " ".join(texts), ids
                texts, ids = [], []
            texts.append(text)
            ids = [*ids, *piece]
    yield " ".join(texts), ids


def _encoded(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[tuple[str, Encoding]]:
    rows = list(texts)
    yield from zip(rows, tokenizer.encode_batch(rows, add_special_tokens=False), strict=True)


def _pieces(text: str, encoding: Encoding, max_tokens: int) -> Iterator[tuple[str, list[int]]]:
    """A sentence too long for a block, cut between tokens."""
    starts = [*range(0, len(encoding.ids), max_tokens), len(encoding.ids)]
    for start, stop in pairwise(starts):
        characters = slice(encoding.offsets[start][0], encoding.offsets[stop - 1][1])
        yield text[characters], encoding.ids[start:stop]


def drawn_slices(lengths_R: np.ndarray, *, wanted: int, num_rounds: int, seed: int) -> list[np.ndarray]:
    """Rows of each round, `wanted` in all or a few less, of all lengths alike, none twice.

    They are drawn in runs of 32 neighbours in length, one run from each of several equal ranges of the corpus sorted by
    length. So sorting a slice wastes as little padding as sorting the whole corpus, and slices cost the same.

    Raises:
        UsageError: too few rows for so many rounds.
    """
    run, num_ranges = _run_and_ranges(min(wanted, len(lengths_R)) // num_rounds)
    rng, by_length = np.random.default_rng(seed), np.argsort(lengths_R, kind="stable")
    ranges = [rows[: len(rows) // run * run].reshape(-1, run) for rows in np.array_split(by_length, max(1, num_ranges))]
    if num_ranges == 0 or min(map(len, ranges)) < num_rounds:
        raise UsageError(
            where="benchmarks.embed",
            found=f"{wanted} of {len(lengths_R)} blocks for {num_rounds} rounds",
            expected="at least one block in each round",
            action="Ask for more --blocks or fewer --rounds, or give --data with more paragraphs.",
        )
    runs = [rng.permutation(rows)[:num_rounds] for rows in ranges]
    return [rng.permutation(np.concatenate([rows[number] for rows in runs])) for number in range(num_rounds)]


def _run_and_ranges(slice_size: int) -> tuple[int, int]:
    """Rows of a run, and in how many ranges a slice has one."""
    run = max(1, min(ROWS_PER_RUN, slice_size // FEWEST_RANGES))
    return run, slice_size // run


def num_padded_tokens(lengths_R: np.ndarray, batch_size: int) -> int:
    """Tokens, padding included, of batches of rows sorted by length."""
    lengths = np.sort(lengths_R)[::-1]
    return sum(
        int(lengths[start]) * len(lengths[start : start + batch_size]) for start in range(0, len(lengths), batch_size)
    )
