"""`realm serve`: starts the retrieval service, or attaches to it; shows how it is; ends it."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from cluster.http_api import require_token
from cluster.http_front import running_http, start_http
from cluster.retrieval_service import (
    RetrievalClient,
    RouterStatus,
    ServiceStatus,
    SwapMode,
    start_service,
    stop_service,
)
from cluster.session import joins_a_cluster, ray_session
from pipelines.display import say
from pipelines.validation import at_least
from realm_core.errors import RealmError, ServiceUnavailableError, UsageError
from realm_core.storage.files import Store
from realm_core.storage.snapshots import load_snapshot

SECONDS_BETWEEN_LOOKS = 2.0
TOKEN_VARIABLE = "REALM_HTTP_TOKEN"  # noqa: S105 - the name of a variable


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """Serve a store's published snapshot from named actors; what is published later goes live by itself.

    On a cluster (--address) `realm serve` starts the service, or attaches to the one that runs, and returns; `realm
    serve status` and `realm serve stop` look after it. Without one it serves on this machine until Ctrl-C.
    """

    action: Annotated[Literal["start", "status", "stop"], tyro.conf.Positional] = "start"
    """start; status: what runs, how fast and how healthy; stop."""
    store: str | None = None
    """Where artifacts live: a local folder or an fsspec URL. For start."""
    replicas: int = 1
    """Processes of each index shard; with two, one that dies costs no waiting."""
    routers: int = 1
    """Processes that take searches and merge what the shards find."""
    follow: bool = True
    """Whether a snapshot that is published later goes live by itself."""
    swap: SwapMode = "blue-green"
    """blue-green: the next snapshot is loaded beside the live one; in-place-per-shard: shard after shard, in no memory
    of its own, for memory-mapped kinds where two copies do not fit."""
    http: str | None = None
    """Address of an HTTP front, such as 127.0.0.1:8080; beyond loopback REALM_HTTP_TOKEN must be set."""
    address: str | None = None
    """Ray cluster to join (`auto`, `ray://...`); by default one is started on this machine."""

    def __post_init__(self) -> None:
        at_least("realm serve", replicas=(self.replicas, 1), routers=(self.routers, 1))
        if self.http is not None:
            require_token(self.http, os.environ.get(TOKEN_VARIABLE))
        if self.action == "start" and self.store is None:
            raise UsageError(
                where="realm serve",
                found="no --store",
                expected="the store to serve",
                action="Name it: --store FOLDER.",
            )
        if self.action != "start" and not joins_a_cluster(self.address):
            raise UsageError(
                where=f"realm serve {self.action}",
                found="no --address",
                expected="the cluster that the service runs on",
                action="Add --address auto on one of its machines, or set RAY_ADDRESS.",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeReport:
    """How the service is, or was when it was ended."""

    status: ServiceStatus | None
    processes: Mapping[str, int]
    http_url: str | None
    what: str

    def rows(self) -> list[tuple[str, object]]:
        """For the table at the end."""
        return [
            ("service", self.what),
            *(status_rows(self.status, self.processes, self.http_url) if self.status else []),
        ]


def run_serve(config: ServeConfig, *, stop: threading.Event | None = None) -> ServeReport:
    """Does what `action` says; without a cluster to join it serves until `stop` is set or the process is interrupted.

    Raises:
        StoreError: nothing is published, or an index shard is damaged.
        UsageError: the HTTP address cannot be listened on, or another store is served on this cluster.
        ServiceUnavailableError: `status` or `stop`, and no service runs, or it is not ready.
    """
    if config.action == "start":
        return _start(config, stop or threading.Event())
    with ray_session(config.address):
        client = RetrievalClient.connect()
        if config.action == "stop":
            stop_service()
            return ServeReport(status=None, processes={}, http_url=None, what="stopped")
        report = _report(client, "runs")
        _require_ready(report)
        return report


def _start(config: ServeConfig, stop: threading.Event) -> ServeReport:
    assert config.store is not None
    store = Store(config.store)
    load_snapshot(store)
    with ray_session(config.address):
        was_running = _is_running()
        client = start_service(
            store, replicas=config.replicas, routers=config.routers, follow=config.follow, swap=config.swap
        )
        if config.http is not None:
            start_http(config.http, os.environ.get(TOKEN_VARIABLE))
        what = "was running already: attached, and left as it is" if was_running else "started"
        if joins_a_cluster(config.address):
            return _report(client, what)
        return _serve_here(client, stop)


def _serve_here(client: RetrievalClient, stop: threading.Event) -> ServeReport:
    """In the foreground, for a cluster that ends with this process."""
    url = running_http()
    say(f"serving {client.live_snapshot().snapshot_id}" + (f" on {url}" if url else "") + "; Ctrl-C ends it")
    watcher = _SwapWatcher(client)
    try:
        while not stop.wait(SECONDS_BETWEEN_LOOKS):
            watcher.look()
    except KeyboardInterrupt:
        say("")
    report = _report(client, "ended")
    stop_service()
    return report


class _SwapWatcher:
    """Says which swaps the service makes, and which fail."""

    def __init__(self, client: RetrievalClient) -> None:
        self._client = client
        self._live = client.live_snapshot().snapshot_id
        self._failed = ""
        self._announced = ""

    def look(self) -> None:
        """What is new since the last look."""
        try:
            status = self._client.status()
        except RealmError as error:
            say(f"the service does not answer: {error}")
            return
        if status.upcoming and status.upcoming != self._announced:
            self._announced = status.upcoming
            say(f"swapping to {status.upcoming}: {status.upcoming_memory}")
        if status.snapshot.snapshot_id != self._live:
            self._live = status.snapshot.snapshot_id
            say(f"live: {self._live}")
        if status.last_failed_swap != self._failed:
            self._failed = status.last_failed_swap
            say(f"swap failed, the live snapshot goes on: {self._failed}")


def _is_running() -> bool:
    try:
        RetrievalClient.connect()
    except ServiceUnavailableError:
        return False
    return True


def _report(client: RetrievalClient, what: str) -> ServeReport:
    return ServeReport(status=client.status(), processes=client.processes(), http_url=running_http(), what=what)


def _require_ready(report: ServeReport) -> None:
    assert report.status is not None
    if not report.status.is_ready:
        down = [f"{name}: {value}" for name, value in report.rows() if name.startswith("router ")]
        raise ServiceUnavailableError(
            where="realm serve status",
            found="; ".join(down),
            expected="every router up, with a healthy replica of every index shard",
            action="A process that died is restarted by itself; look again in a few seconds, then at `ray status`.",
        )


def status_rows(status: ServiceStatus, processes: Mapping[str, int], http_url: str | None) -> list[tuple[str, object]]:
    """The table of `realm serve status`."""
    config = status.config
    answered = status.num_searches - status.num_failed_searches
    rows: list[tuple[str, object]] = [
        ("store", config.store_url),
        ("live snapshot", f"{status.snapshot.snapshot_id}, {status.snapshot.num_rows:,} rows"),
        ("encoder step", status.snapshot.encoder_step),
        ("staleness", f"{status.staleness_seconds:,.0f} s since the encoder left training"),
        ("index shards", f"{status.num_shards}, {config.replicas} replicas of each"),
        ("follows the store", f"yes, {config.swap}" if config.follow else "no"),
        ("searches", f"{answered:,} answered, {status.num_failed_searches:,} failed"),
        ("swaps", status.num_swaps),
        ("last failed swap", status.last_failed_swap or "none"),
    ]
    rows += [(f"router {number}", router_text(router)) for number, router in enumerate(status.routers)]
    if http_url:
        rows.append(("HTTP", http_url))
    rows.append(
        ("processes", ", ".join(f"{name.removeprefix('realm-retrieval-')} {pid}" for name, pid in processes.items()))
    )
    return rows


def router_text(router: RouterStatus | None) -> str:
    """One router in a line."""
    if router is None:
        return "does not answer"
    batch = router.num_queries / router.num_batches if router.num_batches else 0.0
    return (
        f"healthy replicas {list(router.num_healthy_replicas)}, {router.queries_per_second:,.1f} queries/s, "
        f"p50 {1e3 * router.latency_p50_seconds:.1f} ms, p99 {1e3 * router.latency_p99_seconds:.1f} ms, "
        f"{batch:.1f} queries a batch, {router.num_waiting_queries:,} waiting"
    )
