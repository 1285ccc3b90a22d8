"""`CURRENT`: which snapshot is live, and which were live before it. One atomic write moves it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from realm_core.errors import ArtifactCorruptError

if TYPE_CHECKING:
    from collections.abc import Collection

    from realm_core.storage.files import Store

POINTER_PATH = "CURRENT"
MAX_HISTORY = 100
"""Ids remembered for going back; a pre-training run with a refresh every few minutes publishes as many in a night."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotPointer:
    """What `CURRENT` says."""

    snapshot: str
    """Id of the live snapshot."""
    history: tuple[str, ...] = ()
    """Ids that were live before, oldest first; rolling back takes the last one away."""
    published_at_seconds: float = 0.0
    """When it became live, since the epoch; 0 where that was not written down."""

    def published(self, snapshot_id: str, *, now_seconds: float) -> SnapshotPointer:
        """After that snapshot was published: the one that was live joins the history. Nothing if it is live already."""
        if snapshot_id == self.snapshot:
            return self
        history = (*self.history, self.snapshot)[-MAX_HISTORY:]
        return SnapshotPointer(snapshot=snapshot_id, history=history, published_at_seconds=now_seconds)

    def previous(self, existing: Collection[str]) -> str | None:
        """Which snapshot rolling back leads to: the last of the history that is still there; None without one."""
        return next((one for one in reversed(self.history) if one in existing and one != self.snapshot), None)

    def rolled_back(self, existing: Collection[str], *, now_seconds: float) -> SnapshotPointer | None:
        """After rolling back; None where there is nothing to go back to."""
        target = self.previous(existing)
        if target is None:
            return None
        last = len(self.history) - 1 - self.history[::-1].index(target)
        return SnapshotPointer(snapshot=target, history=self.history[:last], published_at_seconds=now_seconds)


def read_pointer(store: Store) -> SnapshotPointer | None:
    """The pointer; None where nothing was ever published.

    Raises:
        ArtifactCorruptError: the file is damaged.
    """
    if not store.exists(POINTER_PATH):
        return None
    try:
        value = store.read_json(POINTER_PATH, required=("snapshot",))
        history = value.get("history", [])
        if not all(isinstance(one, str) for one in (value["snapshot"], *history)):
            raise _damaged(store, "ids that are no strings")
        known = {field.name for field in fields(SnapshotPointer)}
        return SnapshotPointer(**{k: v for k, v in value.items() if k in known} | {"history": tuple(history)})
    except (ArtifactCorruptError, TypeError) as error:
        raise _damaged(store, error.found if isinstance(error, ArtifactCorruptError) else str(error)) from error


def write_pointer(store: Store, pointer: SnapshotPointer) -> None:
    """Makes its snapshot live, in one atomic write."""
    store.write_json(POINTER_PATH, asdict(pointer))


def _damaged(store: Store, found: str) -> ArtifactCorruptError:
    return ArtifactCorruptError(
        where=f"{store.url}/{POINTER_PATH}",
        found=found,
        expected='{"snapshot": ID, "history": [ID, …]}, which says what is live',
        action=f"Run `realm snapshots publish --store {store.url} ID` with one that `realm snapshots list` shows.",
    )
