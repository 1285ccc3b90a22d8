"""Snapshots: the immutable set of index shards of one encoder over one corpus, and which of them is live."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from realm_core.errors import StoreError
from realm_core.storage.digests import digest_of

if TYPE_CHECKING:
    from realm_core.storage.files import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardEntry:
    """An index shard as a snapshot lists it."""

    digest: str
    num_rows: int
    first_block_id: int
    """Block id of the shard's row 0: a shard covers consecutive parts, so its block ids are consecutive."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotManifest:
    """What a snapshot is made of, and what its gate measured."""

    corpus_digest: str
    encoder_digest: str
    encoder_step: int
    """Training step of the encoder; 0 before pre-training."""
    precision: str
    dimension: int
    index_spec: dict[str, Any]
    shards: tuple[ShardEntry, ...]
    embedding_digests: tuple[str, ...]
    """One per part, in the corpus manifest's order."""
    encoder_saved_at_seconds: float
    """When the encoder left training, seconds since the epoch: what staleness in seconds counts from."""
    gate: dict[str, Any]
    """The checks that the snapshot passed, with recall@k against exact search."""

    @property
    def snapshot_id(self) -> str:
        """Names the snapshot: encoder step and digest of its content; the same content has the same id."""
        content = digest_of(self.corpus_digest, self.encoder_digest, [shard.digest for shard in self.shards])
        return f"step-{self.encoder_step:06d}-{content[:12]}"

    @property
    def num_rows(self) -> int:
        """Rows of all shards."""
        return sum(shard.num_rows for shard in self.shards)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` is the inverse."""
        return {"snapshot_id": self.snapshot_id, **asdict(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SnapshotManifest:
        """The manifest of `to_json`."""
        fields = {k: v for k, v in value.items() if k not in ("snapshot_id", "shards", "embedding_digests")}
        return cls(
            shards=tuple(ShardEntry(**shard) for shard in value["shards"]),
            embedding_digests=tuple(value["embedding_digests"]),
            **fields,
        )


def shard_path(digest: str) -> str:
    """The folder of an index shard."""
    return f"indexes/{digest}"


def snapshot_path(snapshot_id: str) -> str:
    """Where a snapshot's manifest is."""
    return f"snapshots/{snapshot_id}.json"


def publish(store: Store, manifest: SnapshotManifest) -> str:
    """Writes the manifest, then points `CURRENT` at it: the one step by which a snapshot becomes visible."""
    if not store.exists(snapshot_path(manifest.snapshot_id)):
        store.write_json(snapshot_path(manifest.snapshot_id), manifest.to_json())
    store.write_json("CURRENT", {"snapshot": manifest.snapshot_id})
    return manifest.snapshot_id


def load_snapshot(store: Store, snapshot_id: str | None = None) -> SnapshotManifest:
    """The snapshot of that id, or the current one.

    Raises:
        StoreError: nothing was published yet, or no snapshot has that id; lists those that are there.
    """
    if snapshot_id is None:
        snapshot_id = _current_id(store)
    if snapshot_id not in list_snapshots(store):
        raise StoreError(
            where=f"store {store.url}",
            found=f"no snapshot {snapshot_id}",
            expected="one of " + (", ".join(list_snapshots(store)) or "none: nothing is published"),
            action="Name one of these, or run `realm index`.",
        )
    return SnapshotManifest.from_json(
        store.read_json(snapshot_path(snapshot_id), required=("shards", "encoder_digest"))
    )


def list_snapshots(store: Store) -> list[str]:
    """Ids of all published snapshots, by training step."""
    return [name.removesuffix(".json") for name in store.list("snapshots")]


def has_current_snapshot(store: Store) -> bool:
    """True when a snapshot was published."""
    return store.exists("CURRENT")


def _current_id(store: Store) -> str:
    store.require_initialized()
    if not has_current_snapshot(store):
        raise StoreError(
            where=f"store {store.url}",
            found="no published snapshot",
            expected="one, made by `realm index`",
            action="Run `realm embed` and `realm index` on this store first.",
        )
    return str(store.read_json("CURRENT", required=("snapshot",))["snapshot"])
