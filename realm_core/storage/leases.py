"""Which snapshots are being read, so that garbage collection leaves them alone.

On a local disk a reader holds a shared `flock` on `leases/<snapshot id>.lock`; the operating system frees it when its
process ends, however it ends. On an object store it keeps a file of its own, see `realm_core.storage.remote_leases`.

Garbage collection claims a snapshot before it removes its manifest. Either it finds the reader and leaves the snapshot,
or the reader finds the claim, waits for it to end, and is told that the snapshot is gone.
"""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from realm_core.errors import StoreError
from realm_core.storage.remote_leases import LEASES_FOLDER, RemoteLease, claimed_remotely, is_leased_remotely
from realm_core.storage.snapshots import snapshot_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from realm_core.storage.files import Store

logger = logging.getLogger(__name__)

_warned_stores: set[str] = set()


class ReadLease:
    """Says, until it is closed, that this process reads a snapshot; a context manager. Made by `reading`."""

    def __init__(self, snapshot_id: str, held: IO[str] | RemoteLease | None) -> None:
        self.snapshot_id = snapshot_id
        self._held = held

    @property
    def is_held(self) -> bool:
        """False after `close`, and where the store could not be written: nothing protects the snapshot then."""
        return self._held is not None

    def close(self) -> None:
        """The snapshot is no longer read here; closing twice does nothing."""
        held, self._held = self._held, None
        if held is not None:
            _let_go(held)

    def __enter__(self) -> ReadLease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def reading(store: Store, snapshot_id: str) -> ReadLease:
    """Takes a lease of a snapshot: `realm snapshots gc` leaves it alone until the lease is closed, or its process ends.

    Take it before opening the snapshot's shards. Any number of readers can hold one. It may wait for the moment that
    garbage collection needs to remove a manifest. A lease is of this process; give none to a child.

    A store that this process may not write, such as a read-only mount, can be read all the same: the lease is not held
    (`is_held`), a warning says so once, and nothing protects the snapshot. Do not collect garbage there meanwhile.

    Raises:
        StoreError: no snapshot has that id, or it has just been removed.
    """
    try:
        held = _hold_file(store, snapshot_id) if store.is_local else RemoteLease(store, snapshot_id)
    except (OSError, StoreError) as error:
        held = None
        _warn_once(store, error)
    lease = ReadLease(snapshot_id, held)
    if not store.exists(snapshot_path(snapshot_id)):
        lease.close()
        raise StoreError(
            where=f"store {store.url}",
            found=f"no snapshot {snapshot_id}, or no longer",
            expected="a snapshot that is there; `realm snapshots gc` removes old ones",
            action="Open the live snapshot, or one that `realm snapshots list` shows.",
        )
    return lease


def is_being_read(store: Store, snapshot_id: str) -> bool:
    """True while some process holds a lease of the snapshot; changes nothing."""
    if not store.is_local:
        return is_leased_remotely(store, snapshot_id)
    path = _lock_path(store, snapshot_id)
    if not path.exists():
        return False
    with path.open() as file:
        return not _lock_now(file)


@contextmanager
def claimed(store: Store, snapshot_id: str) -> Iterator[bool]:
    """True when nobody reads the snapshot, and then nobody begins to before the block ends; for garbage collection.

    Within the block remove its manifest, at which later readers look. Call it under the writer lock.
    """
    if not store.is_local:
        with claimed_remotely(store, snapshot_id) as is_free:
            yield is_free
        return
    with _open_lock(store, snapshot_id) as file:
        is_free = _lock_now(file)
        try:
            yield is_free
        finally:
            if is_free and not store.exists(snapshot_path(snapshot_id)):
                _lock_path(store, snapshot_id).unlink(missing_ok=True)


def leased_ids(store: Store) -> list[str]:
    """Ids of the snapshots that have, or once had, a lease."""
    return [name.removesuffix(".lock") for name in store.list(LEASES_FOLDER)]


def _hold_file(store: Store, snapshot_id: str) -> IO[str]:
    while True:
        file = _open_lock(store, snapshot_id)
        try:
            fcntl.flock(file, fcntl.LOCK_SH)
            if _is_still(_lock_path(store, snapshot_id), file):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # garbage collection removed the file while this process waited for it


def _open_lock(store: Store, snapshot_id: str) -> IO[str]:
    path = _lock_path(store, snapshot_id)
    try:
        return path.open()  # a lock does not ask for permission to write
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+")


def _is_still(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _lock_now(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _let_go(held: IO[str] | RemoteLease) -> None:
    if not isinstance(held, RemoteLease):
        fcntl.flock(held, fcntl.LOCK_UN)  # also where a child has a copy of the open file
    held.close()


def _lock_path(store: Store, snapshot_id: str) -> Path:
    return Path(store.full_path(f"{LEASES_FOLDER}/{snapshot_id}.lock"))


def _warn_once(store: Store, error: Exception) -> None:
    if store.url not in _warned_stores:
        _warned_stores.add(store.url)
        logger.warning(
            "No lease could be taken in store %s (%s): run no `realm snapshots gc` on it while it is read here.",
            store.url,
            error,
        )
