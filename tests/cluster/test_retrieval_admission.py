"""Connections to the service's processes that do not show its token."""

import select
import socket
import time
from contextlib import ExitStack

import numpy as np
import pytest
from support.snapshots import DIMENSION

from cluster.retrieval import wire
from cluster.retrieval.admission import ADMISSION_SECONDS, MAX_STRANGERS, Strangers, is_admitted

needs_cluster = pytest.mark.cluster


@pytest.mark.parametrize("given_token", [b"x" * 32, b"", b"short"])
def test_only_the_token_is_admitted(given_token):
    token = wire.new_token()
    for sent, is_right in ((given_token, False), (token, True)):
        left, right = socket.socketpair()
        with left, right:
            left.sendall(sent)
            left.shutdown(socket.SHUT_WR)
            assert is_admitted(right, token, Strangers()) is is_right


def test_one_stranger_too_many_closes_the_one_that_waited_longest():
    strangers, closed = Strangers(most=2), []
    with ExitStack() as first, ExitStack() as others:
        for number, stack in enumerate((first, others, others)):
            stack.enter_context(strangers.waiting(lambda number=number: closed.append(number)))
        assert closed == [0]
        others.enter_context(strangers.waiting(lambda: closed.append(3)))
        assert closed == [0, 1]
    with strangers.waiting(lambda: closed.append(4)), strangers.waiting(lambda: closed.append(5)):
        assert closed == [0, 1], "those that showed the token, or left, do not count"


def address_of(client, kind):
    """Where the first process of a kind listens."""
    import ray

    from cluster.calls import get
    from cluster.retrieval.generation import router_name
    from cluster.session import NAMESPACE

    client.status()  # a snapshot is live
    router = ray.get_actor(router_name(0), namespace=NAMESPACE)
    if kind == "router":
        address = router.address.remote()
    else:
        generation = get(router.generation.remote(), timeout_seconds=10.0, what="router")
        address = generation.shards[0][0].address.remote(generation.tasks[0])
    return get(address, timeout_seconds=10.0, what=kind)


def num_closed(connections):
    readable, _, _ = select.select(connections, [], [], 0)
    assert all(connection.recv(1) == b"" for connection in readable), "a stranger was told something"
    return len(readable)


@needs_cluster
@pytest.mark.parametrize("kind", ["router", "shard"])
def test_what_is_no_token_ends_the_connection_unanswered(service, kind):
    with socket.create_connection(address_of(service, kind), timeout=ADMISSION_SECONDS) as stranger:
        stranger.sendall(b"GET /search HTTP/1.1\r\nHost: x\r\n\r\n".ljust(32)[:32])
        assert stranger.recv(100) == b""


@needs_cluster
@pytest.mark.parametrize("kind", ["router", "shard"])
def test_silent_strangers_are_few_and_soon_gone_and_searches_go_on(service, kind):
    num_extra = 40
    address = address_of(service, kind)
    with ExitStack() as stack:
        strangers = [stack.enter_context(socket.create_connection(address)) for _ in range(MAX_STRANGERS + num_extra)]
        deadline = time.monotonic() + ADMISSION_SECONDS / 2
        while num_closed(strangers) < num_extra:
            assert time.monotonic() < deadline, "more are kept than may be"
            time.sleep(0.05)
        queries = np.random.default_rng(0).normal(size=(2, DIMENSION)).astype(np.float32)
        assert service.search(queries, 3, deadline_seconds=10.0).block_ids_BK.shape == (2, 3)
        deadline = time.monotonic() + 2 * ADMISSION_SECONDS
        while num_closed(strangers) < len(strangers):
            assert time.monotonic() < deadline, "a silent stranger was kept"
            time.sleep(0.05)
        assert service.search(queries, 3, deadline_seconds=10.0).block_ids_BK.shape == (2, 3)
