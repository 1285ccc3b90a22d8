"""The corpus: parts of block records, the manifest that lists them, and reading blocks by their id."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from realm_core.errors import ArtifactCorruptError, QueryError
from realm_core.records import BLOCK_SCHEMA, UID_BYTES
from realm_core.storage.digests import digest_of, digest_of_table, fixed_binary_to_numpy
from realm_core.storage.parquet import read_table, write_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from realm_core.storage.files import Store

ROWS_PER_PART = 16_384
"""Target size of a part: the unit of work of embedding, and of reuse."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartEntry:
    """A part as a corpus manifest lists it."""

    digest: str
    """SHA-256 of the part's block records; names its file, and goes into the names of all that is made from it."""
    num_rows: int
    num_tokens: int
    """Word pieces of all titles and bodies."""
    first_block_id: int
    """Block id of the part's row 0 in this corpus."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusManifest:
    """One version of the corpus: an ordered list of parts. Block ids are dense over it, in part and row order."""

    parts: tuple[PartEntry, ...]
    tokenizer_digest: str
    max_block_tokens: int
    uid_digest: str
    """Digest of all uids, whatever their order; what a snapshot must hold exactly once."""
    source: str
    counts: dict[str, int]
    """What ingest read, dropped and made."""
    block_rule: str = "sentences"
    """How documents were cut, see `realm_core.text.blocking`; published block records are ORQA's, by sentences."""

    @property
    def digest(self) -> str:
        """Names this version of the corpus: the digest of its parts, tokenizer, block length and block rule.

        The rule enters it only where it is not `sentences`, so that corpora from before there was a choice keep theirs.
        """
        rule = [] if self.block_rule == "sentences" else [self.block_rule]
        return digest_of([part.digest for part in self.parts], self.tokenizer_digest, self.max_block_tokens, *rule)

    @property
    def num_blocks(self) -> int:
        """Rows of all parts."""
        return sum(part.num_rows for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` is the inverse."""
        return {"digest": self.digest, **asdict(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CorpusManifest:
        """The manifest of `to_json`."""
        fields = {k: v for k, v in value.items() if k not in ("digest", "parts")}
        return cls(parts=tuple(PartEntry(**part) for part in value["parts"]), **fields)


def part_path(digest: str) -> str:
    """Where a part's block records are."""
    return f"parts/{digest}.parquet"


def records_path(digest: str) -> str:
    """Where a part's memory-mappable copy is."""
    return f"records/{digest}.arrow"


def write_part(store: Store, table: pa.Table) -> tuple[str, bool]:
    """Writes a part under its digest, and its memory-mappable copy; returns the digest and whether it was new.

    A file that is there is written again unless its bytes still have that digest.
    """
    digest = digest_of_table(table)
    is_new = not _is_whole(store, part_path(digest), digest)
    if is_new:
        write_table(store, part_path(digest), table)
    if not _is_whole(store, records_path(digest), digest):
        store.write_file(records_path(digest), lambda local: _write_arrow(table, local))
    return digest, is_new


def part_is_whole(store: Store, digest: str) -> bool:
    """True when the part and its memory-mappable copy are there and hold what their name says."""
    return _is_whole(store, part_path(digest), digest) and _is_whole(store, records_path(digest), digest)


def _is_whole(store: Store, path: str, digest: str) -> bool:
    if not store.exists(path):
        return False
    try:
        is_parquet = path.endswith(".parquet")
        table = read_table(store, path) if is_parquet else store.read_checked(path, _map_arrow)
        return digest_of_table(table) == digest
    except (ArtifactCorruptError, pa.ArrowException, ValueError):
        return False


def read_part(store: Store, part: PartEntry, columns: Sequence[str] | None = None) -> pa.Table:
    """A part's block records, in row order.

    Raises:
        ArtifactMissingError: the part is not there.
        ArtifactCorruptError: its bytes or its row count are not the ones that were written.
    """
    table = read_table(store, part_path(part.digest), columns)
    if table.num_rows != part.num_rows:
        raise ArtifactCorruptError(
            where=f"{store.url}/{part_path(part.digest)}",
            found=f"{table.num_rows} rows",
            expected=f"{part.num_rows} rows, as the corpus manifest says",
            action="Remove the file and run `realm ingest` again.",
        )
    return table


def save_corpus(store: Store, manifest: CorpusManifest) -> None:
    """Writes the manifest, then points `corpora/CURRENT` at it."""
    store.write_json(f"corpora/{manifest.digest}.json", manifest.to_json())
    store.write_json("corpora/CURRENT", {"corpus": manifest.digest})


def load_corpus(store: Store, digest: str | None = None) -> CorpusManifest:
    """The corpus of that digest, or the current one. Raises `StoreError` when nothing was ingested."""
    if digest is None:
        store.require_initialized()
        digest = store.read_json("corpora/CURRENT", required=("corpus",))["corpus"]
    return CorpusManifest.from_json(store.read_json(f"corpora/{digest}.json", required=("parts", "uid_digest")))


class BlockRecords:
    """Block records by block id, from memory-mapped Arrow files: opening reads nothing, a look-up reads its rows."""

    def __init__(self, store: Store, corpus: CorpusManifest) -> None:
        self._first_block_ids = [part.first_block_id for part in corpus.parts]
        self._num_blocks = corpus.num_blocks
        self._paths = [records_path(part.digest) for part in corpus.parts]
        self._store = store
        self._tables: dict[int, pa.Table] = {}

    def __len__(self) -> int:
        return self._num_blocks

    def take(self, block_ids: Iterable[int], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """One mapping per block id, in the order asked for. Raises `QueryError` for an id that is not there."""
        return [self._row(int(block_id), columns or BLOCK_SCHEMA.names) for block_id in block_ids]

    def token_ids(self, block_id: int) -> tuple[list[int], list[int]]:
        """Title and body token ids of a block."""
        row = self._row(block_id, ("title_token_ids", "body_token_ids"))
        return row["title_token_ids"], row["body_token_ids"]

    def values(self, name: str, block_ids: Iterable[int]) -> list[Any]:
        """A column's values at block ids, None at -1; lists are NumPy arrays that share the mapped file's memory."""
        return [None if block_id < 0 else self._value(name, block_id) for block_id in block_ids]

    def uids(self, block_ids_K: np.ndarray) -> np.ndarray:
        """Uids [K] (S20) of blocks; empty where an id is -1."""
        uids_K = np.zeros(len(block_ids_K), dtype=f"S{UID_BYTES}")
        parts_K = np.searchsorted(self._first_block_ids, block_ids_K, side="right") - 1
        for part in np.unique(parts_K[block_ids_K >= 0]).tolist():
            in_part_K = parts_K == part
            uids_R = fixed_binary_to_numpy(self._table(part)["uid"]).view(f"S{UID_BYTES}")
            uids_K[in_part_K] = uids_R[block_ids_K[in_part_K] - self._first_block_ids[part]]
        return uids_K

    def _value(self, name: str, block_id: int) -> Any:  # noqa: ANN401 - of the column's type
        index, row = self._place(block_id)
        value = self._table(index)[name][row]
        return value.values.to_numpy() if isinstance(value, pa.ListScalar) else value.as_py()

    def _row(self, block_id: int, columns: Sequence[str]) -> dict[str, Any]:
        index, row = self._place(block_id)
        table = self._table(index)
        return {name: table[name][row].as_py() for name in columns}

    def _place(self, block_id: int) -> tuple[int, int]:
        """Which part a block is in, and its row there."""
        if not 0 <= block_id < self._num_blocks:
            raise QueryError(
                where="block records",
                found=f"block id {block_id}",
                expected=f"0 to {self._num_blocks - 1}",
                action="Look up ids that a search of the same corpus returned.",
            )
        index = bisect_right(self._first_block_ids, block_id) - 1
        return index, block_id - self._first_block_ids[index]

    def _table(self, index: int) -> pa.Table:
        if index not in self._tables:
            self._tables[index] = self._store.read_checked(self._paths[index], _map_arrow)
        return self._tables[index]


def _write_arrow(table: pa.Table, local: Path) -> None:
    with pa.OSFile(str(local), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def _map_arrow(path: Path) -> pa.Table:
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the system, such as a missing permission: it says nothing of the bytes
        raise ArtifactCorruptError(
            where=str(path),
            found=f"an Arrow file that cannot be read ({error})",
            expected="the file as ingest wrote it",
            action="Remove it and run `realm ingest` again.",
        ) from error
