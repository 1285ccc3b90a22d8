"""Snapshots: the immutable set of index shards of one encoder over one corpus, and which of them is live."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from realm_core.errors import ArtifactCorruptError, StoreError
from realm_core.storage.digests import digest_of
from realm_core.storage.snapshot_pointer import POINTER_PATH, SnapshotPointer, read_pointer, write_pointer

if TYPE_CHECKING:
    from realm_core.storage.files import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardEntry:
    """An index shard as a snapshot lists it."""

    digest: str
    num_rows: int
    first_block_id: int
    """Block id of the shard's row 0: a shard covers consecutive parts, so its block ids are consecutive."""
    kind: str
    """Of its index, as `realm_core.index.specs.ResolvedKind`: all but `scann` are searched in mapped files."""
    num_bytes: int
    """Of its files: what serving it takes in memory, or in the page cache where its kind maps its files."""


@dataclass(frozen=True, kw_only=True)  # no slots: the id is kept, as every search result names it
class SnapshotManifest:
    """What a snapshot is made of, and what its gate measured."""

    corpus_digest: str
    encoder_digest: str
    encoder_step: int
    """Training step of the encoder; 0 before pre-training."""
    precision: str
    dimension: int
    index_spec: dict[str, Any]
    search_setting: dict[str, Any]
    """How the shards are searched (`realm_core.index.setting.SearchSetting`), as tuned on sampled queries."""
    tuning: list[dict[str, Any]]
    """The measured curve that the setting was chosen from: one mapping per setting tried."""
    shards: tuple[ShardEntry, ...]
    embedding_digests: tuple[str, ...]
    """One per part, in the corpus manifest's order."""
    encoder_saved_at_seconds: float
    """When the encoder left training, seconds since the epoch: what staleness in seconds counts from."""
    gate: dict[str, Any]
    """The checks that the snapshot passed, with recall@k against exact search."""

    @cached_property
    def snapshot_id(self) -> str:
        """Names the snapshot: encoder step and digest of its content; the same content has the same id."""
        shards = [shard.digest for shard in self.shards]
        content = digest_of(self.corpus_digest, self.encoder_digest, shards, self.search_setting)
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
        """The manifest of `to_json`; raises `ArtifactCorruptError` for one of another version of the program."""
        where = f"manifest of snapshot {value.get('snapshot_id')}"
        values = {key: content for key, content in value.items() if key != "snapshot_id"}
        _require_fields(cls, values, where)
        for shard in value["shards"]:
            _require_fields(ShardEntry, shard, where)
        values["shards"] = tuple(ShardEntry(**shard) for shard in value["shards"])
        values["embedding_digests"] = tuple(value["embedding_digests"])
        return cls(**values)


def _require_fields(kind: type[SnapshotManifest | ShardEntry], values: dict[str, Any], where: str) -> None:
    names = {field.name for field in fields(kind)}
    if set(values) != names:
        missing, unknown = sorted(names - set(values)), sorted(set(values) - names)
        raise ArtifactCorruptError(
            where=where,
            found=f"{kind.__name__} without {missing or 'nothing'} and with {unknown or 'nothing'} unknown",
            expected=f"the fields {sorted(names)}",
            action="Another version of the program wrote it: run `realm index` again, which makes it anew.",
        )


def shard_path(digest: str) -> str:
    """The folder of an index shard."""
    return f"indexes/{digest}"


def snapshot_path(snapshot_id: str) -> str:
    """Where a snapshot's manifest is."""
    return f"snapshots/{snapshot_id}.json"


def publish(store: Store, manifest: SnapshotManifest) -> str:
    """Writes the manifest, then points `CURRENT` at it: the one step by which a snapshot becomes visible.

    What is live already is left as it is. A damaged manifest or pointer is written anew. Call it under the writer
    lock; `realm_core.storage.publishing` publishes what is in the store, and needs none.
    """
    snapshot_id = manifest.snapshot_id
    if not _is_readable(store, snapshot_id):
        store.write_json(snapshot_path(snapshot_id), manifest.to_json())
    point_at(store, snapshot_id)
    return snapshot_id


def point_at(store: Store, snapshot_id: str) -> None:
    """Makes a snapshot of the store live; the one that was joins the history. A damaged pointer is written anew."""
    try:
        pointer = read_pointer(store)
    except ArtifactCorruptError as error:
        logger.warning(
            "%s: %s. It is written anew; which snapshots were live before is lost.", error.where, error.found
        )
        pointer = None
    now = time.time()
    if pointer is None:
        write_pointer(store, SnapshotPointer(snapshot=snapshot_id, published_at_seconds=now))
    elif pointer.snapshot != snapshot_id:
        write_pointer(store, pointer.published(snapshot_id, now_seconds=now))


def load_snapshot(store: Store, snapshot_id: str | None = None) -> SnapshotManifest:
    """The snapshot of that id, or the current one.

    Raises:
        StoreError: nothing was published yet, or no snapshot has that id; lists those that are there.
        ArtifactCorruptError: a damaged manifest or pointer.
    """
    if snapshot_id is None:
        snapshot_id = live_snapshot_id(store)
    if not store.exists(snapshot_path(snapshot_id)):
        raise _no_snapshot(store, snapshot_id)
    return SnapshotManifest.from_json(
        store.read_json(snapshot_path(snapshot_id), required=("shards", "encoder_digest"))
    )


def list_snapshots(store: Store) -> list[str]:
    """Ids of all snapshots in the store, live or not, by training step."""
    return [name.removesuffix(".json") for name in store.list("snapshots")]


def has_current_snapshot(store: Store) -> bool:
    """True when a snapshot was published."""
    return store.exists(POINTER_PATH)


def live_snapshot_id(store: Store) -> str:
    """Id of the live snapshot.

    Raises:
        StoreError: nothing was published yet, or what is live has no manifest.
        ArtifactCorruptError: the pointer is damaged.
    """
    store.require_initialized()
    pointer = read_pointer(store)
    if pointer is None:
        raise StoreError(
            where=f"store {store.url}",
            found="no published snapshot",
            expected="one, made by `realm index`",
            action="Run `realm embed` and `realm index` on this store first.",
        )
    if not store.exists(snapshot_path(pointer.snapshot)):
        raise StoreError(
            where=f"{store.url}/{POINTER_PATH}",
            found=f"the snapshot {pointer.snapshot}, which has no manifest",
            expected=_one_of(list_snapshots(store)),
            action="Run `realm snapshots rollback`, or `realm snapshots publish ID` with one of these.",
        )
    return pointer.snapshot


def previous_snapshot_id(store: Store) -> str | None:
    """Id of the snapshot that rolling back leads to; None where there is none."""
    pointer = read_pointer(store)
    return None if pointer is None else pointer.previous(list_snapshots(store))


def resolve_snapshot_id(store: Store, name: str) -> str:
    """The id that a user means by `live`, `previous`, an id, or the beginning of one.

    Raises:
        StoreError: no snapshot, or several, have that name; lists them.
    """
    if name == "live":
        return live_snapshot_id(store)
    if name == "previous":
        previous = previous_snapshot_id(store)
        if previous is None:
            raise nothing_before(store)
        return previous
    ids = list_snapshots(store)
    meant = [name] if name in ids else [one for one in ids if name and one.startswith(name)]
    if len(meant) > 1:
        raise StoreError(
            where=f"store {store.url}",
            found=f"{len(meant)} snapshots that begin with {name}",
            expected=_one_of(meant),
            action="Give more of the id.",
        )
    if not meant:
        raise _no_snapshot(store, name)
    return meant[0]


def nothing_before(store: Store) -> StoreError:
    """The error where there is no snapshot to go back to."""
    return StoreError(
        where=f"store {store.url}",
        found="no snapshot that was live before",
        expected="one that is still in the store",
        action="`realm snapshots list` shows what is there; `realm snapshots publish ID` makes any of it live.",
    )


def _is_readable(store: Store, snapshot_id: str) -> bool:
    try:
        return store.exists(snapshot_path(snapshot_id)) and load_snapshot(store, snapshot_id) is not None
    except ArtifactCorruptError:
        return False


def _no_snapshot(store: Store, snapshot_id: str) -> StoreError:
    return StoreError(
        where=f"store {store.url}",
        found=f"no snapshot {snapshot_id}",
        expected=_one_of(list_snapshots(store)),
        action="Name one of these, or run `realm index`.",
    )


def _one_of(ids: list[str]) -> str:
    return "one of " + (", ".join(ids) or "none: nothing is published")
