"""What changed between two snapshots, from their manifests and the uids of the parts that differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from realm_core.storage.block_store import load_corpus, read_part
from realm_core.storage.digests import fixed_binary_to_numpy

if TYPE_CHECKING:
    from collections.abc import Collection

    from realm_core.storage.block_store import CorpusManifest, PartEntry
    from realm_core.storage.files import Store
    from realm_core.storage.snapshots import SnapshotManifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """Of things that two snapshots name: how many both have, and only one of them."""

    num_shared: int
    num_gone: int
    """Only the first has these."""
    num_new: int
    """Only the second has these."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotDiff:
    """What changed from one snapshot to another."""

    before: SnapshotManifest
    after: SnapshotManifest
    blocks: Overlap
    """By uid: a block whose title or text changed is one gone and one new."""
    parts: Overlap
    embeddings: Overlap
    """Files, one per part."""
    shards: Overlap
    num_shared_shard_bytes: int
    num_new_shard_bytes: int


def diff_snapshots(store: Store, before: SnapshotManifest, after: SnapshotManifest) -> SnapshotDiff:
    """Reads the uids of parts that only one of the corpora has.

    Raises:
        StoreError: a corpus or a part cannot be read.
    """
    corpora = load_corpus(store, before.corpus_digest), load_corpus(store, after.corpus_digest)
    old_shards, new_shards = ({shard.digest: shard.num_bytes for shard in m.shards} for m in (before, after))
    old_parts, new_parts = ({part.digest for part in corpus.parts} for corpus in corpora)
    shared_bytes = sum(num_bytes for digest, num_bytes in new_shards.items() if digest in old_shards)
    return SnapshotDiff(
        before=before,
        after=after,
        blocks=_blocks(store, *corpora),
        parts=overlap(old_parts, new_parts),
        embeddings=overlap(before.embedding_digests, after.embedding_digests),
        shards=overlap(old_shards, new_shards),
        num_shared_shard_bytes=shared_bytes,
        num_new_shard_bytes=sum(new_shards.values()) - shared_bytes,
    )


def overlap(before: Collection[object], after: Collection[object]) -> Overlap:
    """Counts of two collections without repetitions."""
    old, new = set(before), set(after)
    return Overlap(num_shared=len(old & new), num_gone=len(old - new), num_new=len(new - old))


def _blocks(store: Store, before: CorpusManifest, after: CorpusManifest) -> Overlap:
    shared = {part.digest for part in before.parts} & {part.digest for part in after.parts}
    num_same = sum(part.num_rows for part in after.parts if part.digest in shared)
    old = _uids(store, [part for part in before.parts if part.digest not in shared])
    new = _uids(store, [part for part in after.parts if part.digest not in shared])
    num_moved = len(np.intersect1d(old, new))
    return Overlap(num_shared=num_same + num_moved, num_gone=len(old) - num_moved, num_new=len(new) - num_moved)


def _uids(store: Store, parts: Collection[PartEntry]) -> np.ndarray:
    uids = [fixed_binary_to_numpy(read_part(store, part, ["uid"])["uid"]) for part in parts]
    return np.unique(np.concatenate(uids).view("S20")) if uids else np.zeros(0, dtype="S20")
