"""One replica of one index shard, in a process of its own: answers searches on connections, one thread for each."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

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
from realm_core.index.build import import_searcher
from realm_core.index.shards import ShardSearcher
from realm_core.storage.files import Store
from realm_core.storage.leases import reading

if TYPE_CHECKING:
    from cluster.retrieval.generation import ShardTask

logger = logging.getLogger(__name__)

SECONDS_AFTER_FAILURE = 0.2


class ShardServer:
    """Begins without a shard, so that its process can be there before the shard is.

    Whoever asks where it answers says what it is to serve: also after it has died, when Ray starts it again.
    """

    def __init__(self, kind: str) -> None:
        """Imports what searching an index of that kind takes."""
        import_searcher(kind)
        self._server: socket.socket | None = None
        self._loading = threading.Lock()
        self._strangers = Strangers()

    def address(self, task: ShardTask) -> Address:
        """Where it answers; loads the shard first, at the first call. It serves one task in its life.

        Raises:
            RealmError: the shard cannot be loaded; the next call tries again.
        """
        with self._loading:
            if self._server is None:
                self._load(task)
        assert self._server is not None
        host, port = self._server.getsockname()[:2]
        return host, port

    def process_id(self) -> int:
        """Of this replica."""
        return os.getpid()

    def _load(self, task: ShardTask) -> None:
        self._task = task
        store = Store(task.store_url)
        self._lease = reading(store, task.snapshot_id)
        self._shard = ShardSearcher(store, task.entry, task.setting)
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
