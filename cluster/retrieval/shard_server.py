"""One replica of one index shard, in a process of its own: answers searches on connections, one thread for each."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray

from cluster.retrieval.admission import Strangers, is_admitted
from cluster.retrieval.wire import (
    Address,
    Frame,
    error_frame,
    hits_frame,
    queries_of,
    receive_frame,
    send_frame,
)
from realm_core.errors import RealmError
from realm_core.index.setting import SearchSetting
from realm_core.index.shards import ShardSearcher
from realm_core.storage.files import Store
from realm_core.storage.leases import reading
from realm_core.storage.snapshots import ShardEntry

logger = logging.getLogger(__name__)

SECONDS_AFTER_FAILURE = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardTask:
    """What a shard process serves."""

    store_url: str
    snapshot_id: str
    entry: ShardEntry
    setting: SearchSetting
    dimension: int
    threads: int
    token: bytes


class ShardServer:
    """Loads its shard when it starts; Ray starts it again, and so loads it again, whenever it dies."""

    def __init__(self, task: ShardTask) -> None:
        self._task = task
        self._error: RealmError | None = None
        self._server: socket.socket | None = None
        self._loading = threading.Lock()
        self._strangers = Strangers()
        self._try_to_load()

    def address(self) -> Address:
        """Where it answers; raises what its loading raised, which is tried again each time it is asked."""
        with self._loading:
            if self._error is not None:
                self._try_to_load()
        if self._error:
            raise self._error
        assert self._server is not None
        host, port = self._server.getsockname()[:2]
        return host, port

    def process_id(self) -> int:
        """Of this replica."""
        return os.getpid()

    def _try_to_load(self) -> None:
        """Keeps the error: a constructor's would reach the caller as a dead actor, without its message."""
        try:
            self._load()
            self._error = None
        except RealmError as error:
            self._error = error

    def _load(self) -> None:
        store = Store(self._task.store_url)
        self._lease = reading(store, self._task.snapshot_id)
        self._shard = ShardSearcher(store, self._task.entry, self._task.setting)
        self._shard.check_known_queries()
        self._server = listen()
        threading.Thread(target=self._accept, name="accept", daemon=True).start()

    def _accept(self) -> None:
        assert self._server is not None
        take_priority()
        while True:
            try:
                connection, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(connection,), name="serve", daemon=True).start()
            except (OSError, RuntimeError):  # out of file descriptors or threads, which others may give back
                logger.exception("a connection could not be taken")
                time.sleep(SECONDS_AFTER_FAILURE)

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not is_admitted(connection, self._task.token, self._strangers):
                logger.warning("A connection without the service's token was closed.")
                return
            self._use_threads()
            try:
                while True:
                    send_frame(connection, self._answer(receive_frame(connection)))
            except (ConnectionError, OSError):
                return  # the router went away, or gave up waiting

    def _use_threads(self) -> None:
        """OpenMP keeps the number for each thread of its own."""
        if self._task.entry.kind == "exact":
            import torch

            torch.set_num_threads(self._task.threads)
        import faiss

        faiss.omp_set_num_threads(self._task.threads)

    def _answer(self, request: Frame) -> Frame:
        if request.header.get("ping"):
            return Frame({})
        try:
            return hits_frame(self._shard.search(queries_of(request), request.header["num_hits"]))
        except Exception as error:
            if not isinstance(error, RealmError):
                logger.exception("a search failed")
            return error_frame(error)


ShardActor: Any = ray.remote(ShardServer)


def take_priority() -> None:
    """Runs this thread, and those it starts, like other processes: Ray gives its workers niceness 15, and whatever else
    begins on the machine, a new worker of Ray's above all, would hold up searches. Loading keeps the niceness.

    Takes root; elsewhere start Ray with RAY_worker_niceness=0.
    """
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def listen() -> socket.socket:
    """A listening socket on a free port of this node's address."""
    return socket.create_server((ray.util.get_node_ip_address(), 0), backlog=512)
