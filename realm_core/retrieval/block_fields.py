"""Words and token ids of the blocks that a search found, read from memory-mapped block records.

Shape letters: `B` queries, `K` hits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from realm_core.errors import QueryError
from realm_core.records import BLOCK_SCHEMA
from realm_core.retrieval.corpus_records import CorpusRecords

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from realm_core.storage.files import Store

FIELDS = tuple(BLOCK_SCHEMA.names)


class BlockFields:
    """Fields of blocks of a store's corpora, by block id."""

    def __init__(self, store: Store) -> None:
        self._records = CorpusRecords(store)

    def look_up(
        self, corpus_digest: str, block_ids_BK: np.ndarray, fields: Sequence[str]
    ) -> dict[str, list[list[Any]]]:
        """For each field, one value per hit `[B][K]`; None where a hit is missing (-1).

        Strings and bytes are Python's; token ids, sentence starts and salient spans are uint16 arrays that share the
        mapped file's memory and must not be written to.

        Raises:
            QueryError: no such field, or no such block in that corpus.
        """
        unknown = sorted(set(fields) - set(FIELDS))
        if unknown:
            raise QueryError(
                where="block fields",
                found=f"the fields {', '.join(unknown)}",
                expected=f"some of {', '.join(FIELDS)}",
                action="Correct their names.",
            )
        records = self._records.of(corpus_digest)
        return {name: [records.values(name, ids_K.tolist()) for ids_K in block_ids_BK] for name in fields}
