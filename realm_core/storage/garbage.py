"""Garbage collection: removes old snapshots, and the artifacts that nothing kept names.

Manifests go first, then what only they named. A run that is killed leaves artifacts that nothing names, which the next
run removes, and never a snapshot without its artifacts.
"""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from realm_core.storage.embedding_store import embedding_path
from realm_core.storage.encoder_store import encoder_path
from realm_core.storage.inventory import Inventory, take_inventory
from realm_core.storage.leases import claimed, is_being_read, leased_ids
from realm_core.storage.lock import writer_lock
from realm_core.storage.retention import Artifacts, RemovalPlan, artifacts_of, plan_removal
from realm_core.storage.snapshot_pointer import read_pointer
from realm_core.storage.snapshots import live_snapshot_id, previous_snapshot_id, shard_path, snapshot_path

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from realm_core.storage.files import Store

BEING_READ = "being read"
SHARD_MANIFEST, ENCODER_MANIFEST = "shard.json", "config.json"
"""Files whose presence means that a shard, or an encoder, is whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectionReport:
    """What was found, and what of it was removed."""

    kept: dict[str, str]
    """Why each kept snapshot was kept."""
    removed: tuple[str, ...]
    num_newest: int
    """So many of the newest were kept."""
    found: Artifacts
    removed_artifacts: Artifacts
    num_leftovers: int
    """Temporary files of runs that died, all removed."""
    num_freed_bytes: int
    is_dry_run: bool


def collect_garbage(
    store: Store, *, num_newest: int, is_dry_run: bool = False, progress: Callable[[int, int], None] = lambda *_: None
) -> CollectionReport:
    """Keeps the live snapshot, the previous one, the newest `num_newest`, and those that are being read.

    A dry run changes nothing and does not need the writer lock. `progress` gets the number of things removed, of all.

    Raises:
        StoreLockedError: something is being built.
        StoreError: a manifest, record or pointer cannot be read: nothing was removed.
    """
    with nullcontext() if is_dry_run else writer_lock(store, "realm snapshots gc"):
        return _collect(store, take_inventory(store), num_newest, progress, is_dry_run=is_dry_run)


def collect_garbage_of_run(store: Store, *, num_newest: int, old_encoders: Collection[str]) -> CollectionReport:
    """`collect_garbage` for a training run that goes on, between two of its refreshes.

    It takes no lock: the driver of the run holds it. What training writes meanwhile is left alone: temporary files, and
    encoders other than `old_encoders` (digests), those that the run has done with.

    Raises:
        StoreError: a manifest, record or pointer cannot be read: nothing was removed.
    """
    found = take_inventory(store)
    old = found.stored.encoders & (set(old_encoders) | artifacts_of(*found.manifests.values()).encoders)
    stored = replace(found.stored, encoders=old)
    return _collect(store, replace(found, stored=stored, leftovers=()), num_newest, lambda *_: None, is_dry_run=False)


def _collect(
    store: Store, inventory: Inventory, num_newest: int, progress: Callable[[int, int], None], *, is_dry_run: bool
) -> CollectionReport:
    with ExitStack() as claims:
        plan = _plan(store, inventory, num_newest, claims, is_dry_run=is_dry_run)
        paths = [_leftover(path) for path in inventory.leftovers] + _paths(plan.artifacts)
        total = len(plan.removed) + len(paths)
        report = _report(inventory, plan, num_newest, [path for path, _ in paths], is_dry_run=is_dry_run)
        if is_dry_run:
            return report
        for number, snapshot_id in enumerate(plan.removed, start=1):
            store.remove(snapshot_path(snapshot_id))
            progress(number, total)
    for number, (path, first) in enumerate(paths, start=len(plan.removed) + 1):
        if first is None:
            store.remove(path)
        else:
            store.remove_folder(path, first=first)
        progress(number, total)
    _forget_leases(store, inventory.manifests.keys() - set(plan.removed))
    return report


def _plan(store: Store, inventory: Inventory, num_newest: int, claims: ExitStack, *, is_dry_run: bool) -> RemovalPlan:
    """Claims what may go, then looks at the pointer again: it may have moved, for publishing takes no lock."""
    wanted = _plan_at_pointer(store, inventory, num_newest, inventory.pinned).removed
    free = {one for one in wanted if _may_go(store, one, claims, is_dry_run=is_dry_run)}
    read = {one: BEING_READ for one in wanted if one not in free}
    unclaimed = {one: "became removable while this ran" for one in inventory.manifests if one not in wanted}
    plan = _plan_at_pointer(store, inventory, num_newest, read | inventory.pinned)
    if set(plan.removed) <= free:
        return plan
    return _plan_at_pointer(store, inventory, num_newest, unclaimed | read | inventory.pinned)


def _plan_at_pointer(store: Store, inventory: Inventory, num_newest: int, pinned: dict[str, str]) -> RemovalPlan:
    was_published = read_pointer(store) is not None
    return plan_removal(
        inventory.manifests,
        inventory.stored,
        live=live_snapshot_id(store) if was_published else None,
        previous=previous_snapshot_id(store),
        num_newest=num_newest,
        pinned=pinned,
        named_elsewhere=inventory.named_elsewhere,
    )


def _may_go(store: Store, snapshot_id: str, claims: ExitStack, *, is_dry_run: bool) -> bool:
    if is_dry_run:
        return not is_being_read(store, snapshot_id)
    return claims.enter_context(claimed(store, snapshot_id))


def _paths(artifacts: Artifacts) -> list[tuple[str, str | None]]:
    """Paths to remove; of a folder, with the file that goes first."""
    shards: list[tuple[str, str | None]] = [(shard_path(one), SHARD_MANIFEST) for one in sorted(artifacts.shards)]
    embeddings = [(embedding_path(one), None) for one in sorted(artifacts.embeddings)]
    return shards + embeddings + [(encoder_path(one), ENCODER_MANIFEST) for one in sorted(artifacts.encoders)]


def _leftover(path: str) -> tuple[str, str | None]:
    return path, None


def _report(
    inventory: Inventory, plan: RemovalPlan, num_newest: int, paths: list[str], *, is_dry_run: bool
) -> CollectionReport:
    gone = {*paths, *(snapshot_path(one) for one in plan.removed)}
    freed = [size for name, size in inventory.sizes_bytes.items() if name in gone or _folder(name) in gone]
    return CollectionReport(
        kept=plan.kept,
        removed=plan.removed,
        num_newest=num_newest,
        found=inventory.stored,
        removed_artifacts=plan.artifacts,
        num_leftovers=len(inventory.leftovers),
        num_freed_bytes=sum(freed),
        is_dry_run=is_dry_run,
    )


def _folder(path: str) -> str:
    return "/".join(path.split("/")[:2])


def _forget_leases(store: Store, kept: Collection[str]) -> None:
    """Removes lock files and leases of snapshots that are gone."""
    for snapshot_id in leased_ids(store):
        if snapshot_id not in kept:
            with claimed(store, snapshot_id):
                pass  # which removes what nobody holds
