"""The block records of whichever corpus a snapshot belongs to, opened once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realm_core.storage.block_store import BlockRecords, load_corpus

if TYPE_CHECKING:
    from realm_core.storage.files import Store


class CorpusRecords:
    """Keeps the records of the corpus that was asked for last; may be used by several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._opened: tuple[str, BlockRecords] | None = None

    def of(self, corpus_digest: str) -> BlockRecords:
        """The block records of that corpus of the store."""
        opened = self._opened  # digest and records are read and set as one
        if opened is None or opened[0] != corpus_digest:
            opened = corpus_digest, BlockRecords(self._store, load_corpus(self._store, corpus_digest))
            self._opened = opened
        return opened[1]
