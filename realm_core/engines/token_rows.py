"""Rows of token ids, one after the other, and the packs and batches cut out of them.

Shapes: R rows, T tokens of a pack, B rows of a pack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from realm_core.errors import BlockError, UsageError

if TYPE_CHECKING:
    from realm_core.engines.buckets import Batch
    from realm_core.engines.engine import TokenIds
    from realm_core.engines.packing import Pack

MAX_ROWS_NAMED = 10


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Token ids with markers."""

    ids: np.ndarray
    """Of all rows."""
    lengths_R: np.ndarray
    """Tokens of each row, markers included."""
    first_lengths_R: np.ndarray
    """Tokens of token type 0, with which each row begins; the rest has type 1."""

    @property
    def starts_R(self) -> np.ndarray:  # noqa: N802 - shape letters
        """Where each row begins in `ids`."""
        stops_R: np.ndarray = np.cumsum(self.lengths_R)
        starts_R: np.ndarray = stops_R - self.lengths_R
        return starts_R


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """The tokens of a pack, dummies at its end."""

    ids_T: np.ndarray
    """uint16; 0 for dummies."""
    positions_T: np.ndarray
    """uint16, from 0 in each row; 0 for dummies."""
    types_T: np.ndarray
    """uint8."""
    lengths_B: np.ndarray
    """Tokens of each row, int64."""


def rows_of_blocks(titles: TokenIds, bodies: TokenIds, cls_id: int, sep_id: int) -> TokenRows:
    """`[CLS] title [SEP] body [SEP]`: type 0 up to the first [SEP], as ORQA has it."""
    cls, sep = np.array([cls_id], dtype=np.uint16), np.array([sep_id], dtype=np.uint16)
    pieces = chain.from_iterable((cls, title, sep, body, sep) for title, body in zip(titles, bodies, strict=True))
    title_lengths_R = _lengths(titles)
    return TokenRows(_joined(list(pieces)), title_lengths_R + _lengths(bodies) + 3, title_lengths_R + 2)


def rows_of_queries(queries: TokenIds, cls_id: int, sep_id: int) -> TokenRows:
    """`[CLS] tokens [SEP]`, all of type 0."""
    cls, sep = np.array([cls_id], dtype=np.uint16), np.array([sep_id], dtype=np.uint16)
    pieces = chain.from_iterable((cls, query, sep) for query in queries)
    lengths_R = _lengths(queries) + 2
    return TokenRows(_joined(list(pieces)), lengths_R, lengths_R)


def packed_tokens(rows: TokenRows, starts_R: np.ndarray, pack: Pack) -> PackedTokens:
    """The tokens of a pack's rows."""
    lengths_B = rows.lengths_R[pack.rows]
    starts_B = np.cumsum(lengths_B) - lengths_B
    places_T = np.arange(pack.num_tokens)
    positions_T = places_T - np.repeat(starts_B, lengths_B)
    sources_T = np.repeat(starts_R[pack.rows] - starts_B, lengths_B) + places_T
    return PackedTokens(
        ids_T=_filled_up(rows.ids[sources_T], pack, np.uint16),
        positions_T=_filled_up(positions_T, pack, np.uint16),
        types_T=_filled_up(positions_T >= np.repeat(rows.first_lengths_R[pack.rows], lengths_B), pack, np.uint8),
        lengths_B=lengths_B,
    )


def padded_tokens(rows: TokenRows, starts_R: np.ndarray, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids [B, L], tokens of type 0 [B, 1] and all tokens [B, 1] of a batch; dummies are one token long. int64."""
    ids_BL = np.zeros((batch.num_rows, batch.length_tokens), dtype=np.int64)
    first_lengths_B1, lengths_B1 = np.ones((2, batch.num_rows, 1), dtype=np.int64)
    for place, row in enumerate(batch.indices.tolist()):
        ids_BL[place, : rows.lengths_R[row]] = rows.ids[starts_R[row] : starts_R[row] + rows.lengths_R[row]]
    first_lengths_B1[: len(batch.indices), 0] = rows.first_lengths_R[batch.indices]
    lengths_B1[: len(batch.indices), 0] = rows.lengths_R[batch.indices]
    return ids_BL, first_lengths_B1, lengths_B1


def check_rows(rows: TokenRows, *, longest_tokens: int, vocab_size: int) -> None:
    """Raises `BlockError`, with their numbers, for rows longer than the encoder or with ids outside its vocabulary.

    Raises:
        UsageError: token ids that are no integers.
    """
    if rows.ids.dtype.kind not in "iu":
        raise UsageError(
            where="token ids",
            found=f"values of the type {rows.ids.dtype}",
            expected="integers",
            action="Pass what the tokenizer gives, as arrays of an integer type.",
        )
    too_long = np.flatnonzero(rows.lengths_R > longest_tokens)
    if too_long.size:
        raise BlockError(
            where=_named(too_long, len(rows.lengths_R)),
            found=f"{rows.lengths_R[too_long[0]]} tokens with [CLS] and [SEP]",
            expected=f"at most {longest_tokens}, the positions the encoder has",
            action="Make shorter blocks, or cut the query, before embedding.",
            rows=tuple(too_long.tolist()),
        )
    places = np.flatnonzero((rows.ids >= vocab_size) | (rows.ids < 0))
    if places.size:
        unknown = np.unique(np.searchsorted(rows.starts_R, places, side="right") - 1)
        raise BlockError(
            where=_named(unknown, len(rows.lengths_R)),
            found=f"token id {rows.ids[places[0]]}",
            expected=f"ids from 0 to {vocab_size - 1}, the encoder's vocabulary",
            action="Tokenize with the encoder's own tokenizer.",
            rows=tuple(unknown.tolist()),
        )


def _named(numbers: np.ndarray, num_rows: int) -> str:
    more = f" and {len(numbers) - MAX_ROWS_NAMED} more" if len(numbers) > MAX_ROWS_NAMED else ""
    word = "row" if len(numbers) == 1 else "rows"
    return f"{word} {', '.join(map(str, numbers[:MAX_ROWS_NAMED].tolist()))}{more} of {num_rows}"


def _lengths(token_ids: TokenIds) -> np.ndarray:
    return np.fromiter((len(tokens) for tokens in token_ids), dtype=np.int64, count=len(token_ids))


def _joined(pieces: Sequence[np.ndarray]) -> np.ndarray:
    filled = [piece for piece in pieces if len(piece)]  # an empty array has no type to speak of
    return np.concatenate(filled) if filled else np.array([], dtype=np.uint16)


def _filled_up(values: np.ndarray, pack: Pack, dtype: type[np.generic]) -> np.ndarray:
    filled = np.zeros(pack.capacity_tokens, dtype=dtype)
    filled[: len(values)] = values
    return filled
