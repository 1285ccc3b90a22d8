import asyncio
import socket
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from cluster.retrieval import wire
from realm_core.errors import GateError, QueryError, ServiceUnavailableError
from realm_core.index.searcher import SearchHits


def through_sockets(frame):
    """The frame as the other end of a connection reads it."""
    left, right = socket.socketpair()
    with left, right:
        sender = threading.Thread(target=wire.send_frame, args=(left, frame))
        sender.start()
        received = wire.receive_frame(right)
        sender.join()
    return received


@given(
    st_numpy.arrays(np.float32, st_numpy.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=7)),
    st.integers(1, 50),
)
def test_queries_survive_a_connection(queries_BD, num_hits):
    received = through_sockets(wire.search_request(np.ascontiguousarray(queries_BD), num_hits, 2.5))
    np.testing.assert_array_equal(wire.queries_of(received), queries_BD)
    assert (received.header["num_hits"], received.header["deadline_seconds"]) == (num_hits, 2.5)


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0), (2000, 50)])
def test_hits_survive_a_connection_with_what_is_said_of_them(shape):
    generator = np.random.default_rng(0)
    hits = SearchHits(generator.normal(size=shape).astype(np.float32), generator.integers(-1, 1 << 40, size=shape))
    received = through_sockets(wire.hits_frame(hits, snapshot_id="s", encoder_step=3))
    found = wire.hits_of(received)
    np.testing.assert_array_equal(found.rows_BK, hits.rows_BK)
    np.testing.assert_array_equal(found.relevances_BK, hits.relevances_BK)
    assert (received.header["snapshot_id"], received.header["encoder_step"]) == ("s", 3)


def test_missing_hits_survive():
    hits = SearchHits(np.full((1, 2), -np.inf, np.float32), np.full((1, 2), -1))
    found = wire.hits_of(through_sockets(wire.hits_frame(hits)))
    assert np.isneginf(found.relevances_BK).all()
    assert (found.rows_BK == -1).all()


def test_our_errors_keep_their_type_and_facts():
    error = QueryError(where="a", found="b", expected="c", action="d")
    with pytest.raises(QueryError) as raised:
        wire.hits_of(through_sockets(wire.error_frame(error)))
    assert str(raised.value) == str(error)
    assert raised.value.expected == "c"


def test_other_errors_become_a_service_error_that_names_them():
    with pytest.raises(ServiceUnavailableError, match="ZeroDivisionError: by nothing"):
        wire.hits_of(wire.error_frame(ZeroDivisionError("by nothing")))


def test_an_error_kind_that_this_version_lacks_is_still_an_error():
    facts = {"kind": "FutureError", "where": "w", "found": "f", "expected": "e", "action": "a"}
    assert isinstance(wire.error_of(facts), ServiceUnavailableError)
    assert isinstance(wire.error_of({**facts, "kind": "GateError"}), GateError)


def test_a_body_of_another_size_than_its_shape_is_refused():
    frame = wire.Frame({"shape": [2, 4], "num_hits": 1}, b"\0" * 31)
    with pytest.raises(QueryError, match="31 bytes"):
        wire.queries_of(frame)


@pytest.mark.parametrize(
    "data",
    [b"", b"\1\0", b"\xff" * 8, b"\2\0\0\0\0\0\0\0{]", b"GET / HTTP/1.1\r\n\r\n"],
    ids=["nothing", "half", "huge", "no JSON", "HTTP"],
)
def test_what_is_no_frame_ends_the_connection(data):
    left, right = socket.socketpair()
    with left, right:
        left.sendall(data)
        left.shutdown(socket.SHUT_WR)
        with pytest.raises(wire.ConnectionClosedError):
            wire.receive_frame(right)

    async def read():
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        await wire.read_frame(reader)

    with pytest.raises(wire.ConnectionClosedError):
        asyncio.run(read())
