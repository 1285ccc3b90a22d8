"""`realm serve`: the retrieval service, until it is interrupted."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

from cluster.http_api import HttpApi, parse_address
from cluster.retrieval_service import RetrievalClient, start_service
from cluster.session import ray_session
from pipelines.display import say
from realm_core.errors import ServiceUnavailableError
from realm_core.retrieval.evidence import EvidenceRetriever
from realm_core.storage.files import Store
from realm_core.storage.snapshots import SnapshotManifest, load_snapshot

SECONDS_BETWEEN_LOOKS = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """Serve the store's published snapshot from named actors, and follow newer ones; Ctrl-C ends it."""

    store: str
    """Where artifacts live: a local folder or an fsspec URL."""
    http: str | None = None
    """Address of an HTTP front, such as 127.0.0.1:8080; beyond loopback REALM_HTTP_TOKEN must be set."""
    address: str | None = None
    """Ray cluster to join (`auto`, `ray://...`); by default one is started on this machine."""

    def __post_init__(self) -> None:
        if self.http is not None:
            parse_address(self.http)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeReport:
    """What the service did until it was interrupted."""

    snapshot_id: str
    num_searches: int
    num_failed_searches: int
    num_swaps: int

    def rows(self) -> list[tuple[str, object]]:
        """For the table at the end."""
        return [
            ("live snapshot", self.snapshot_id),
            ("searches", f"{self.num_searches:,}, {self.num_failed_searches:,} failed"),
            ("swaps", self.num_swaps),
        ]


def run_serve(config: ServeConfig, *, stop: threading.Event | None = None) -> ServeReport:
    """Serves until `stop` is set or the process is interrupted; a snapshot that is published meanwhile goes live.

    Raises:
        StoreError: nothing is published, or an index shard is damaged.
        UsageError: the HTTP address cannot be listened on.
    """
    store = Store(config.store)
    load_snapshot(store)
    stop = stop or threading.Event()
    with ray_session(config.address):
        client = start_service(store)
        http = _start_http(config, store, client)
        say(f"serving {client.live_snapshot().snapshot_id}" + (f" on {http.url}" if http else "") + "; Ctrl-C ends it")
        try:
            while not stop.wait(SECONDS_BETWEEN_LOOKS):
                _follow(store, client)
        except KeyboardInterrupt:
            say("")
        finally:
            if http:
                http.close()
        status = client.status()
    return ServeReport(
        snapshot_id=status.snapshot.snapshot_id,
        num_searches=status.num_searches,
        num_failed_searches=status.num_failed_searches,
        num_swaps=status.num_swaps,
    )


def _start_http(config: ServeConfig, store: Store, client: RetrievalClient) -> HttpApi | None:
    if config.http is None:
        return None
    retriever = EvidenceRetriever(store, client)
    http = HttpApi(config.http, client, retriever, os.environ.get("REALM_HTTP_TOKEN"))
    threading.Thread(target=http.serve, name="http", daemon=True).start()
    return http


def _follow(store: Store, client: RetrievalClient) -> None:
    published: SnapshotManifest = load_snapshot(store)
    if client.live_snapshot().snapshot_id != published.snapshot_id:
        try:
            swap = client.swap(published.snapshot_id)
        except ServiceUnavailableError as error:
            say(f"swap failed, the live snapshot goes on: {error}")
            return
        say(f"swapped to {swap.snapshot_id} in {swap.seconds:.1f} s")
