"""Blocks in, parts out, in bounded memory: documents go to parts by a stable hash of their id."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from realm_core.records import BLOCK_SCHEMA, Block, blocks_to_batch
from realm_core.storage.block_store import PartEntry, write_part
from realm_core.storage.digests import digest_of_uids, fixed_binary_to_numpy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from realm_core.storage.files import Store

BLOCKS_PER_SPILL = 512
"""Blocks of one part that are kept in memory before they go to its spill file."""


def part_of_document(document_id: str, num_parts: int) -> int:
    """The part of a document: tomorrow's dump puts an unchanged document into the same one."""
    return int.from_bytes(hashlib.sha1(document_id.encode(), usedforsecurity=False).digest()[:8]) % num_parts


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenCorpus:
    """What became of the blocks: `num_blocks + num_duplicate_blocks` is what was added."""

    parts: tuple[PartEntry, ...]
    uid_digest: str
    num_duplicate_blocks: int
    num_reused_parts: int


class CorpusWriter:
    """Collects blocks part by part in local spill files, then writes each part under its digest.

    A block whose uid was seen before (same title and body) is kept once: the first in part and row order.
    """

    def __init__(self, store: Store, *, num_parts: int, spill_folder: Path) -> None:
        self._store = store
        self._num_parts = num_parts
        self._folder = spill_folder
        self._buffers: list[list[Block]] = [[] for _ in range(num_parts)]

    def add(self, blocks: list[Block]) -> None:
        """Takes a document's blocks."""
        for block in blocks:
            index = part_of_document(block.document_id, self._num_parts)
            self._buffers[index].append(block)
            if len(self._buffers[index]) >= BLOCKS_PER_SPILL:
                self._spill(index)

    def finish(self) -> WrittenCorpus:
        """Writes the parts that have rows; empty ones are left out."""
        for index in range(self._num_parts):
            self._spill(index)
        keep = self._first_occurrences()
        parts: list[PartEntry] = []
        uids, num_reused, num_kept = [], 0, 0
        for index in range(self._num_parts):
            table = self._read_spill(index).filter(pa.array(keep[index]))
            if table.num_rows == 0:
                continue
            digest, is_new = write_part(self._store, table)
            num_reused += not is_new
            parts.append(_part_entry(table, digest, first_block_id=num_kept))
            num_kept += table.num_rows
            uids.append(fixed_binary_to_numpy(table["uid"]))
        return WrittenCorpus(
            parts=tuple(parts),
            uid_digest=digest_of_uids(np.concatenate(uids)) if uids else "",
            num_duplicate_blocks=sum(len(mask) for mask in keep) - num_kept,
            num_reused_parts=num_reused,
        )

    def _spill(self, index: int) -> None:
        if self._buffers[index]:
            with self._spill_path(index).open("ab") as file:
                file.write(blocks_to_batch(self._buffers[index]).serialize())
            self._buffers[index] = []

    def _spill_path(self, index: int) -> Path:
        return self._folder / f"part-{index:05d}.batches"

    def _read_spill(self, index: int, columns: list[str] | None = None) -> pa.Table:
        path = self._spill_path(index)
        batches = list(_read_batches(path)) if path.exists() else []
        table = pa.Table.from_batches(batches, schema=BLOCK_SCHEMA)
        return table.select(columns) if columns else table

    def _first_occurrences(self) -> list[np.ndarray]:
        per_part = [fixed_binary_to_numpy(self._read_spill(i, ["uid"])["uid"]) for i in range(self._num_parts)]
        uids = np.concatenate(per_part).view("S20")
        is_first = np.zeros(len(uids), dtype=bool)
        is_first[np.unique(uids, return_index=True)[1]] = True
        return np.split(is_first, np.cumsum([len(p) for p in per_part])[:-1])


def _part_entry(table: pa.Table, digest: str, *, first_block_id: int) -> PartEntry:
    num_tokens = sum(len(table[name].combine_chunks().flatten()) for name in ("title_token_ids", "body_token_ids"))
    return PartEntry(digest=digest, num_rows=table.num_rows, num_tokens=num_tokens, first_block_id=first_block_id)


def _read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source:
        while source.tell() < source.size():
            yield pa.ipc.read_record_batch(pa.ipc.read_message(source), BLOCK_SCHEMA)
