"""Making live a snapshot that is in the store: publishing it by hand, and rolling back.

Neither takes the writer lock, so that a bad snapshot can be taken back while `realm pretrain` or a long `realm embed`
holds it. A lease of the snapshot keeps garbage collection from removing it meanwhile. Run the gate
(`realm_core.index.snapshot_check`) before publishing by hand.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from realm_core.errors import ArtifactCorruptError
from realm_core.storage.leases import reading
from realm_core.storage.snapshot_pointer import read_pointer, write_pointer
from realm_core.storage.snapshots import list_snapshots, nothing_before, point_at

if TYPE_CHECKING:
    from realm_core.storage.files import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """What was live before, and what is now."""

    before: str | None
    """None where nothing was published, or nobody knows what was."""
    after: str


def publish_existing(store: Store, snapshot_id: str) -> Move:
    """Points `CURRENT` at a snapshot of the store.

    Raises:
        StoreError: no snapshot has that id.
    """
    before = _live_or_none(store)
    with reading(store, snapshot_id):
        point_at(store, snapshot_id)
    return Move(before=before, after=snapshot_id)


def rollback(store: Store) -> Move:
    """Points `CURRENT` at the snapshot that was live before, and takes it out of the history: twice goes back two.

    Raises:
        StoreError: there is nothing to go back to, or nobody knows what was live.
    """
    pointer = read_pointer(store)
    target = None if pointer is None else pointer.previous(list_snapshots(store))
    if pointer is None or target is None:
        raise nothing_before(store)
    with reading(store, target):
        moved = pointer.rolled_back([target], now_seconds=time.time())
        assert moved is not None
        write_pointer(store, moved)
    return Move(before=pointer.snapshot, after=target)


def _live_or_none(store: Store) -> str | None:
    """What `CURRENT` names, whether it is there or not; None for a damaged one."""
    try:
        pointer = read_pointer(store)
    except ArtifactCorruptError:
        return None
    return None if pointer is None else pointer.snapshot
