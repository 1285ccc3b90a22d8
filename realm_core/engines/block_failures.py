"""Blocks that cannot be embedded: found by their rows, reported by their ids.

Shapes: R rows of a part, D projection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from realm_core.errors import BlockError, RealmError, StoreError
from realm_core.storage.block_store import read_part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from realm_core.storage.block_store import PartEntry
    from realm_core.storage.files import Store

MAX_NAMED = 10
"""Blocks that an error names; it counts the others."""


class BlocksOfPart:
    """The blocks of a part, by the names that people look for."""

    def __init__(self, store: Store, part: PartEntry, uids: np.ndarray) -> None:
        self._store = store
        self._part = part
        self.uids = uids
        """[R] (V20)."""

    def error(self, rows: Sequence[int], what: str) -> BlockError:
        """The error that names these rows by block id, uid and title."""
        named = [self._name(row, title) for row, title in zip(rows[:MAX_NAMED], self._titles(rows), strict=True)]
        others = [f"{len(rows) - len(named)} more"] if len(rows) > len(named) else []
        return BlockError(
            where=f"part {self._part.digest[:12]}",
            found=f"{', '.join(named + others) or 'some blocks'}: {what}",
            expected="an embedding of every block",
            action="Correct or leave out these blocks at ingest, or mend the engine; a rerun makes what is missing.",
            rows=tuple(int(row) for row in rows),
        )

    def _name(self, row: int, title: str) -> str:
        block_id = self._part.first_block_id + row
        return f"block {block_id} (uid {bytes(self.uids[row]).hex()}{title})"

    def _titles(self, rows: Sequence[int]) -> list[str]:
        """Read only now that they are needed; the error matters more than they do."""
        try:
            column = read_part(self._store, self._part, ["title"])["title"]
        except StoreError:
            return ["" for _ in rows[:MAX_NAMED]]
        return [f", “{column[int(row)].as_py()}”" for row in rows[:MAX_NAMED]]


def require_usable(embeddings_RD: np.ndarray, blocks: BlocksOfPart) -> None:
    """Raises `BlockError` naming the rows that hold NaN or infinity, or nothing but zeros."""
    for rows, what in unusable_rows(embeddings_RD):
        raise blocks.error(rows, what)


def is_usable(embeddings_RD: np.ndarray) -> bool:
    """True when every row is finite and none is all zeros."""
    return not unusable_rows(embeddings_RD)


def unusable_rows(embeddings_RD: np.ndarray) -> list[tuple[list[int], str]]:
    """Rows that must not be stored, with what is wrong with them."""
    not_finite = np.flatnonzero(~np.isfinite(embeddings_RD).all(axis=1)).tolist()
    zero = np.flatnonzero(~embeddings_RD.any(axis=1)).tolist()
    found = ((not_finite, "NaN or infinity in the embedding"), (zero, "an embedding of zeros"))
    return [(rows, what) for rows, what in found if rows]


def error_of_run(errors: Sequence[RealmError], *, num_embedded: int, num_parts: int) -> RealmError:
    """One error for all parts of a run that failed: of the type of the first, it names at most `MAX_NAMED` blocks."""
    named = _first_errors(errors)
    more = f"; and {len(errors) - len(named)} parts more" if len(errors) > len(named) else ""
    num_blocks = sum(len(error.rows) for error in errors if isinstance(error, BlockError))
    blocks = f", {num_blocks} blocks that cannot be embedded" if num_blocks else ""
    facts = {
        "where": f"embedding {num_parts} parts",
        "found": f"{len(errors)} failed{blocks}, {num_embedded} are done; "
        + "; ".join(f"{error.where}: {error.found}" for error in named)
        + more,
        "expected": errors[0].expected,
        "action": errors[0].action,
    }
    if isinstance(errors[0], BlockError):
        return BlockError(**facts, rows=errors[0].rows)
    return type(errors[0])(**facts)


def _first_errors(errors: Sequence[RealmError]) -> list[RealmError]:
    """As many as name at most `MAX_NAMED` blocks (a part without blocks' names counts as one), the first always."""
    named: list[RealmError] = []
    num_named = 0
    for error in errors:
        num_named += min(MAX_NAMED, max(1, len(error.rows))) if isinstance(error, BlockError) else 1
        if named and num_named > MAX_NAMED:
            break
        named.append(error)
    return named
