"""One writer per store."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from realm_core.errors import StoreError, StoreLockedError
from realm_core.storage.files import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK_NAME = "WRITER.lock"
LEASE_SECONDS = 60.0
"""A remote writer's lease; renewed every third of it."""

_held: set[str] = set()


@contextmanager
def writer_lock(store: Store, command: str) -> Iterator[None]:
    """Holds the store for one writing run.

    On a local disk the operating system holds the lock, so that a killed run frees it at once. On an object store it
    is a lease that its holder renews; a dead holder's lease is taken over when it runs out, or at once on its machine.

    Raises:
        StoreLockedError: another run holds the store; names its command, machine and process id.
    """
    if store.url in _held:
        yield  # a run inside a run of this process, such as the demo's
        return
    owner = {"command": command, "host": socket.gethostname(), "pid": os.getpid(), "token": uuid.uuid4().hex}
    lock = _local_lock(Path(store.full_path(LOCK_NAME)), store, owner) if store.is_local else _lease(store, owner)
    with lock:
        _held.add(store.url)
        try:
            yield
        finally:
            _held.discard(store.url)


@contextmanager
def _local_lock(path: Path, store: Store, owner: dict[str, Any]) -> Iterator[None]:
    if not path.exists():
        store.write_bytes(LOCK_NAME, b"{}")
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _locked(store, path.read_text()) from None
        file.truncate(0)
        file.write(json.dumps(owner))
        file.flush()
        yield


@contextmanager
def _lease(store: Store, owner: dict[str, Any]) -> Iterator[None]:
    if store.exists(LOCK_NAME):
        held = store.read_json(LOCK_NAME)
        if not is_abandoned(held, now_seconds=time.time(), host=owner["host"]):
            raise _locked(store, json.dumps(held))
    _sign(store, owner)
    impatient = Store(store.url, max_retry_seconds=0.0)  # a late renewal would overwrite the lease of another run
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(LEASE_SECONDS / 3):
            with logged("renewing", store):
                _sign(impatient, owner)

    thread = threading.Thread(target=renew, name="store-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with logged("giving back", store):
            impatient.remove(LOCK_NAME)


def _sign(store: Store, owner: dict[str, Any]) -> None:
    store.write_json(LOCK_NAME, {**owner, "expires_at": time.time() + LEASE_SECONDS})


@contextmanager
def logged(what: str, store: Store) -> Iterator[None]:
    """A lease that cannot be reached is no reason to end a run: it runs out, and the run fails by itself if it must."""
    try:
        yield
    except StoreError as error:
        logging.getLogger(__name__).warning("%s the lease of store %s failed: %s", what, store.url, error.found)


def is_abandoned(held: dict[str, Any], *, now_seconds: float, host: str) -> bool:
    """True when a lease ran out, or its process is gone from this machine."""
    if now_seconds > held.get("expires_at", 0.0):
        return True
    return held.get("host") == host and not psutil.pid_exists(held.get("pid", -1))


def _locked(store: Store, owner_json: str) -> StoreLockedError:
    try:
        owner = json.loads(owner_json)
    except ValueError:
        owner = {}
    who = f"`{owner.get('command', 'another run')}` (process {owner.get('pid', '?')} on {owner.get('host', '?')})"
    return StoreLockedError(
        where=f"store {store.url}",
        found=f"{who} is writing it",
        expected="one writer at a time",
        action="Wait for it to end, stop it, or choose another --store.",
    )
