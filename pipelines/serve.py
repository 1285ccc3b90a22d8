"""`realm serve`: starts the retrieval service, or attaches to it; shows how it is; ends it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from cluster.address import joins_a_cluster
from cluster.http_address import TOKEN_VARIABLE
from cluster.http_front import check_http, running_http, start_http
from cluster.retrieval_service import (
    RetrievalClient,
    RouterStatus,
    ServiceConfig,
    ServiceStatus,
    service_is_running,
    start_service,
    stop_service,
)
from cluster.session import ray_session
from pipelines.configs.serve import ServeConfig
from pipelines.display import print_table, say
from realm_core.errors import RealmError, ServiceUnavailableError
from realm_core.storage.files import Store
from realm_core.storage.snapshots import load_snapshot

SECONDS_BETWEEN_LOOKS = 0.5
LOOK_SECONDS = 10.0
STATUS_SECONDS = 60.0
"""What a service that is starting has for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeReport:
    """How the service is, or was when it was ended."""

    status: ServiceStatus | None
    processes: Mapping[str, int]
    http_url: str | None
    what: str
    memory: str = ""
    """What a swap to a snapshot of the live one's size takes, see `SwapMemory`."""

    def rows(self) -> list[tuple[str, object]]:
        """For the table at the end."""
        return [
            ("service", self.what),
            *(status_rows(self.status, self.processes, self.http_url) if self.status else []),
            *([("memory in a swap", self.memory)] if self.memory else []),
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
        if not report.status or not report.status.is_ready:
            print_table("serve", report.rows())
            raise _not_ready(report.status)
        return report


def _start(config: ServeConfig, stop: threading.Event) -> ServeReport:
    assert config.store is not None
    store = Store(config.store)
    load_snapshot(store)
    with ray_session(config.address):
        was_running = service_is_running()
        if config.http is not None:
            check_http(config.http, os.environ.get(TOKEN_VARIABLE))
        client = start_service(
            store, replicas=config.replicas, routers=config.routers, follow=config.follow, swap=config.swap
        )
        if config.http is not None:
            start_http(config.http, os.environ.get(TOKEN_VARIABLE))
        if joins_a_cluster(config.address):
            report = _report(client, "started")
            assert report.status is not None
            return replace(report, what=attached_text(config, report.status.config)) if was_running else report
        return _serve_here(client, stop)


def _serve_here(client: RetrievalClient, stop: threading.Event) -> ServeReport:
    """In the foreground, for a cluster that ends with this process."""
    url = running_http()
    say(f"serving {client.live_snapshot().snapshot_id}" + (f" on {url}" if url else "") + "; Ctrl-C ends it")
    watcher = SwapWatcher(client)
    try:
        with _terminated_sets(stop):
            while not stop.wait(SECONDS_BETWEEN_LOOKS):
                watcher.look()
    except KeyboardInterrupt:
        say("")
    report = _report(client, "ended")
    stop_service()
    return report


@contextmanager
def _terminated_sets(stop: threading.Event) -> Iterator[None]:
    """SIGTERM ends the block in order, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class SwapWatcher:
    """Says which swaps the service makes, and which fail."""

    def __init__(self, client: RetrievalClient) -> None:
        self._client = client
        self._live = client.live_snapshot().snapshot_id
        self._failed = ""
        self._announced = ""
        self._answers = True

    def look(self) -> None:
        """What is new since the last look."""
        try:
            status = self._client.status(timeout_seconds=LOOK_SECONDS)
        except RealmError as error:
            if self._answers:
                say(f"the service does not answer: {error}")
            self._answers = False
            return
        self._answers = True
        if status.upcoming and status.upcoming != self._announced:
            say(f"swapping to {status.upcoming}: {status.upcoming_memory}")
        self._announced = status.upcoming
        if status.snapshot.snapshot_id != self._live:
            self._live = status.snapshot.snapshot_id
            say(f"live: {self._live}")
        if status.last_failed_swap and status.last_failed_swap != self._failed:
            say(f"swap failed, the live snapshot goes on: {status.last_failed_swap}")
        self._failed = status.last_failed_swap


def _report(client: RetrievalClient, what: str) -> ServeReport:
    status = client.status(timeout_seconds=STATUS_SECONDS)
    memory = client.memory_of_swap(status.snapshot.snapshot_id)
    return ServeReport(
        status=status, processes=client.processes(), memory=str(memory), http_url=running_http(), what=what
    )


def attached_text(wanted: ServeConfig, running: ServiceConfig) -> str:
    """Says that a service ran already, and in what it is not the one that was asked for."""
    differences = [
        f"--{name} {getattr(wanted, name)} was asked for, it has {getattr(running, name)}"
        for name in ("replicas", "routers", "follow", "swap")
        if getattr(wanted, name) != getattr(running, name)
    ]
    text = "was running already: attached, and left as it is"
    if not differences:
        return text
    return f"{text} ({'; '.join(differences)}; to change that: realm serve stop, and start it again)"


def _not_ready(status: ServiceStatus | None) -> ServiceUnavailableError:
    return ServiceUnavailableError(
        where="realm serve status",
        found="; ".join(status.what_is_down()) if status else "no status",
        expected="every router up, with a healthy replica of every index shard",
        action="A process that died is restarted by itself; look again in a few seconds, then at `ray status`.",
    )


def status_rows(status: ServiceStatus, processes: Mapping[str, int], http_url: str | None) -> list[tuple[str, object]]:
    """The table of `realm serve status`."""
    config = status.config
    answered = status.num_searches - status.num_failed_searches
    down = status.what_is_down()
    rows: list[tuple[str, object]] = [
        ("store", config.store_url),
        ("live snapshot", f"{status.snapshot.snapshot_id}, {status.snapshot.num_rows:,} rows"),
        ("encoder step", status.snapshot.encoder_step),
        ("age of the encoder", _age_text(status)),
        ("ready", "no: " + "; ".join(down) if down else "yes"),
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


def _age_text(status: ServiceStatus) -> str:
    if not status.snapshot.encoder_saved_at_seconds:
        return "unknown: the snapshot does not say when its encoder left training"
    return f"{status.staleness_seconds:,.0f} s since the encoder left training"


def router_text(router: RouterStatus | None) -> str:
    """One router in a line."""
    if router is None:
        return "does not answer"
    batch = router.num_queries / router.num_batches if router.num_batches else 0.0
    return (
        f"healthy replicas by index shard {list(router.num_healthy_replicas)}, "
        f"{router.queries_per_second:,.1f} queries/s, "
        f"p50 {1e3 * router.latency_p50_seconds:.1f} ms, p99 {1e3 * router.latency_p99_seconds:.1f} ms, "
        f"{batch:.1f} queries a batch, {router.num_waiting_queries:,} waiting"
    )
