"""Index shards in the store: which parts each covers, building one, and searching one by block id."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from realm_core.errors import ArtifactCorruptError
from realm_core.index.build import load_searcher
from realm_core.index.known_queries import check_known
from realm_core.index.searcher import SearchHits
from realm_core.index.specs import resolve_spec
from realm_core.storage.digests import digest_of, digest_of_file
from realm_core.storage.snapshots import ShardEntry, shard_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from realm_core.index.setting import SearchSetting
    from realm_core.index.specs import IndexSpec, ResolvedSpec
    from realm_core.storage.block_store import PartEntry
    from realm_core.storage.files import Store

MANIFEST_NAME = "shard.json"
MIN_SHARDS_FOR_SMALL_LAST = 4
"""With fewer, the others would have to be so much larger that searches would notice."""
BUILD_VERSION = 2
"""Raised whenever the same embeddings and parameters give other bytes: shards are then built again, not reused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPlan:
    """A shard to build: consecutive parts and their embeddings."""

    parts: tuple[PartEntry, ...]
    embedding_digests: tuple[str, ...]
    spec: IndexSpec

    @property
    def digest(self) -> str:
        """Names the shard: a pure function of its embeddings and the index's parameters."""
        return digest_of("index shard", BUILD_VERSION, list(self.embedding_digests), self.resolved_spec.to_json())

    @property
    def resolved_spec(self) -> ResolvedSpec:
        """The index's parameters, which follow from its rows."""
        return resolve_spec(self.spec, self.num_rows)

    @property
    def num_rows(self) -> int:
        """Rows of its parts."""
        return sum(part.num_rows for part in self.parts)

    @property
    def first_block_id(self) -> int:
        """Block id of the shard's row 0."""
        return self.parts[0].first_block_id

    def entry(self, num_bytes: int) -> ShardEntry:
        """The shard, built with files of `num_bytes`, as a snapshot lists it."""
        return ShardEntry(
            digest=self.digest,
            num_rows=self.num_rows,
            first_block_id=self.first_block_id,
            kind=self.resolved_spec.kind,
            num_bytes=num_bytes,
        )


def plan_shards(
    parts: Sequence[PartEntry], embedding_digests: Sequence[str], *, num_shards: int, spec: IndexSpec
) -> list[ShardPlan]:
    """Divides the parts, in their order, into at most `num_shards` groups, see `shard_bounds`."""
    return [
        ShardPlan(parts=tuple(parts[start:stop]), embedding_digests=tuple(embedding_digests[start:stop]), spec=spec)
        for start, stop in shard_bounds(len(parts), num_shards)
    ]


def shard_bounds(num_parts: int, num_shards: int) -> list[tuple[int, int]]:
    """Half-open ranges of parts, about as many in each shard; from four shards on, half as many in the last one.

    A refresh builds each shard while later ones are embedded: for the last one it has to wait.
    """
    num_shards = min(num_shards, num_parts)
    weights = np.full(num_shards, 2)
    if num_shards >= MIN_SHARDS_FOR_SMALL_LAST and num_parts >= 2 * num_shards:
        weights[-1] = 1
    stops = np.rint(num_parts * np.cumsum(weights) / weights.sum()).astype(int).tolist()
    return list(pairwise([0, *stops]))


def shard_bytes(store: Store, digest: str) -> int:
    """Of the shard's index files."""
    sizes_bytes = store.read_json(f"{shard_path(digest)}/{MANIFEST_NAME}", required=("sizes_bytes",))["sizes_bytes"]
    return sum(sizes_bytes.values())


def shard_is_whole(store: Store, digest: str) -> bool:
    """True when the shard is there and each file has the bytes that were written."""
    if not store.exists(f"{shard_path(digest)}/{MANIFEST_NAME}"):
        return False
    try:
        verify_shard(store, digest)
    except ArtifactCorruptError:
        return False
    return True


def verify_shard(store: Store, digest: str) -> None:
    """Raises `ArtifactCorruptError` naming the first file that is missing or has other bytes than were written."""
    manifest = store.read_json(f"{shard_path(digest)}/{MANIFEST_NAME}", required=("sha256", "sizes_bytes"))
    for name, expected in manifest["sha256"].items():
        path = f"{shard_path(digest)}/{name}"
        found = digest_of_file(store.local_file(path)) if store.exists(path) else "no such file"
        if found != expected:
            raise ArtifactCorruptError(
                where=f"{store.url}/{path}",
                found=f"sha256 {found}" if len(found) == 64 else found,
                expected=f"sha256 {expected}",
                action="Run `realm index` again; it rebuilds what is damaged.",
            )


class ShardSearcher:
    """One loaded index shard; its hits carry global block ids."""

    def __init__(
        self, store: Store, entry: ShardEntry, setting: SearchSetting | None = None, *, is_verified: bool = False
    ) -> None:
        """Loads it, after a look at the checksums of its files unless that was done just before.

        Every search is with the setting, see `realm_core.index.searcher.Searcher.search`.
        """
        if not is_verified:
            verify_shard(store, entry.digest)
        self.setting = setting
        self._folder = store.local_folder(shard_path(entry.digest))
        self._searcher = load_searcher(self._folder)
        self._first_block_id = entry.first_block_id
        self.kind = entry.kind

    def check_known_queries(self) -> float:
        """Searches queries whose hits are known; returns the recall, raises `ArtifactCorruptError` where it is low."""
        return check_known(self._folder, self._searcher)

    def search(self, queries_BD: np.ndarray, num_hits: int) -> SearchHits:
        """Relevances and block ids [B, K], by falling relevance, ties by smaller id; -1 pads what is not found."""
        return with_block_ids(self._searcher.search(queries_BD, num_hits, self.setting), self._first_block_id)


def with_block_ids(hits: SearchHits, first_block_id: int) -> SearchHits:
    """A shard's local rows as block ids; -1 stays -1."""
    return SearchHits(hits.relevances_BK, np.where(hits.rows_BK < 0, -1, hits.rows_BK + first_block_id))
