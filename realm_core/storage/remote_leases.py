"""Leases of snapshots on an object store, which has no locks: small files that say until when they hold.

`leases/<snapshot id>/reader-<token>.json` is a reader's, renewed every third of `LEASE_SECONDS`;
`leases/<snapshot id>/claim-<token>.json` is garbage collection's, for the moment in which it removes the manifest. Each
side writes its own file first and looks for the other's then, so that at least one of them sees the other. A lease
that ran out, or whose process is gone from this machine, counts no longer.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from realm_core.errors import ArtifactMissingError
from realm_core.storage.files import Store
from realm_core.storage.lock import LEASE_SECONDS, is_abandoned, logged

if TYPE_CHECKING:
    from collections.abc import Iterator

LEASES_FOLDER = "leases"
READER, CLAIM = "reader", "claim"
SECONDS_BETWEEN_LOOKS = 0.2


class RemoteLease:
    """A reader's file, renewed by a thread until `close`."""

    def __init__(self, store: Store, snapshot_id: str) -> None:
        """Returns when garbage collection has no claim to the snapshot, or none any more."""
        self._path, self._owner = _new_lease(snapshot_id, READER)
        self._impatient = Store(store.url, max_retry_seconds=0.0)  # so that `close` never waits for a renewal
        self._stop = threading.Event()
        _sign(store, self._path, self._owner)
        self._thread = threading.Thread(target=self._renew, name="snapshot-lease", daemon=True)
        self._thread.start()
        try:
            while _unexpired(store, snapshot_id, CLAIM):
                time.sleep(SECONDS_BETWEEN_LOOKS)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the thread and removes the file."""
        self._stop.set()
        self._thread.join()
        with logged("giving back", self._impatient):
            self._impatient.remove(self._path)

    def _renew(self) -> None:
        while not self._stop.wait(LEASE_SECONDS / 3):
            with logged("renewing", self._impatient):
                _sign(self._impatient, self._path, self._owner)


def is_leased_remotely(store: Store, snapshot_id: str) -> bool:
    """True while some process reads the snapshot."""
    return bool(_unexpired(store, snapshot_id, READER))


@contextmanager
def claimed_remotely(store: Store, snapshot_id: str) -> Iterator[bool]:
    """See `realm_core.storage.leases.claimed`; leases that count no longer are removed."""
    path, owner = _new_lease(snapshot_id, CLAIM)
    _sign(store, path, owner)
    try:
        readers = _unexpired(store, snapshot_id, READER)
        if not readers:
            _remove_all_but(store, snapshot_id, path)
        yield not readers
    finally:
        store.remove(path)


def _new_lease(snapshot_id: str, kind: str) -> tuple[str, dict[str, Any]]:
    owner = {"host": socket.gethostname(), "pid": os.getpid()}
    return f"{LEASES_FOLDER}/{snapshot_id}/{kind}-{uuid.uuid4().hex}.json", owner


def _sign(store: Store, path: str, owner: dict[str, Any]) -> None:
    store.write_json(path, {**owner, "expires_at": time.time() + LEASE_SECONDS})


def _unexpired(store: Store, snapshot_id: str, kind: str) -> list[str]:
    folder = f"{LEASES_FOLDER}/{snapshot_id}"
    paths = [f"{folder}/{name}" for name in store.list(folder) if name.startswith(f"{kind}-")]
    return [path for path in paths if _counts(store, path)]


def _counts(store: Store, path: str) -> bool:
    try:
        held = store.read_json(path, required=("expires_at",))
    except ArtifactMissingError:
        return False  # given back between the listing and now
    return not is_abandoned(held, now_seconds=time.time(), host=socket.gethostname())


def _remove_all_but(store: Store, snapshot_id: str, path: str) -> None:
    folder = f"{LEASES_FOLDER}/{snapshot_id}"
    for name in store.list(folder):
        if f"{folder}/{name}" != path and not _counts(store, f"{folder}/{name}"):
            store.remove(f"{folder}/{name}")
