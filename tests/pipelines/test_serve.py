from dataclasses import replace
from types import SimpleNamespace

import pytest
from support.whole_snapshots import WholeStore

from cluster.retrieval.controller import ServiceConfig, ServiceStatus
from cluster.retrieval.metrics import RouterStatus
from pipelines.configs.serve import ServeConfig
from pipelines.serve import SwapWatcher, attached_text, status_rows
from realm_core.errors import ServiceUnavailableError, UsageError
from realm_core.storage.files import Store

ROUTER = RouterStatus(
    generation=1, num_searches=5, num_failed_searches=1, num_queries=12, num_batches=3, num_waiting_queries=7,
    queries_per_second=2.5, latency_p50_seconds=0.0012, latency_p99_seconds=0.034, num_healthy_replicas=(2, 1),
)  # fmt: skip


@pytest.fixture
def status(tmp_path):
    manifest = WholeStore(Store(str(tmp_path / "store")), tmp_path).make(step=3)
    return ServiceStatus(
        snapshot=manifest, config=ServiceConfig(store_url="s", token=b"secret", replicas=2), routers=(ROUTER, ROUTER),
        num_swaps=1, last_failed_swap="", upcoming="", upcoming_memory="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no --store"),
        ({"store": "s", "replicas": 0, "routers": 0}, "--replicas 0, --routers 0"),
        ({"store": "s", "http": "8080"}, "no host and port"),
        ({"store": "s", "http": "0.0.0.0:8080"}, "REALM_HTTP_TOKEN"),
        ({"action": "status"}, "no --address"),
        ({"action": "stop"}, "no --address"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(options, message, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("REALM_HTTP_TOKEN", raising=False)
    with pytest.raises(UsageError, match=message):
        ServeConfig(**options)


def test_the_table_says_how_the_service_is(status):
    rows = dict(status_rows(status, {"realm-retrieval": 11, "realm-retrieval-router-0": 12}, "http://127.0.0.1:1"))
    assert rows["ready"] == "yes"
    assert rows["searches"] == "8 answered, 2 failed"
    assert rows["processes"] == "realm-retrieval 11, router-0 12"
    for words in ("[2, 1]", "2.5 queries/s", "p50 1.2 ms", "p99 34.0 ms", "4.0 queries a batch", "7 waiting"):
        assert words in rows["router 1"]
    assert "secret" not in str(rows)


def test_the_table_says_what_is_down(status):
    starting, lame = replace(ROUTER, num_healthy_replicas=()), replace(ROUTER, num_healthy_replicas=(1, 0))
    down = replace(status, routers=(None, starting, lame))
    assert not down.is_ready
    text = str(dict(status_rows(down, {}, None))["ready"])
    assert text.startswith("no: router 0 does not answer; router 1 ")
    assert text.endswith("index shard 1 has no healthy replica, as router 2 sees it")


def test_attaching_says_what_is_not_as_it_was_asked_for():
    running = ServiceConfig(store_url="s", token=b"", replicas=1, routers=1, follow=True)
    assert attached_text(ServeConfig(store="s"), running).endswith("left as it is")
    text = attached_text(ServeConfig(store="s", replicas=2, follow=False), running)
    assert "--replicas 2 was asked for, it has 1" in text
    assert "realm serve stop" in text
    assert "routers" not in text


def test_swaps_are_told_before_and_after_and_so_are_failures(status, capsys):
    live = SimpleNamespace(snapshot_id=status.snapshot.snapshot_id)
    answers = [
        replace(status, upcoming="step-4", upcoming_memory="1 GB live + 1 GB"),
        replace(status, upcoming="step-4", upcoming_memory="1 GB live + 1 GB"),
        *[ServiceUnavailableError(where="w", found="nothing", expected="e", action="A.")] * 2,
        replace(status, last_failed_swap="to step-4: no room"),
        replace(status, snapshot=replace(status.snapshot, encoder_step=5)),
    ]

    def answer(**_):
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    watcher = SwapWatcher(SimpleNamespace(live_snapshot=lambda: live, status=answer))
    while answers:
        watcher.look()
    assert [line.split(" ")[0] for line in capsys.readouterr().err.splitlines()] == ["swapping", "the", "swap", "live:"]
