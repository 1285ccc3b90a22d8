import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import ray
from support.snapshots import DIMENSION, exact_block_ids

from cluster.http_front import running_http, start_http, stop_http
from cluster.retrieval.generation import HTTP_NAME
from cluster.session import NAMESPACE
from realm_core.errors import UsageError

pytestmark = pytest.mark.cluster

QUERIES = np.random.default_rng(3).normal(size=(2, DIMENSION)).astype(np.float32)


@pytest.fixture
def http(service):
    """The address that the front is on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    start_http(address, None)
    yield address
    stop_http()


def ask(address, path, *, token=None, body=None):
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{address}{path}", data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def ask_until_it_answers(address, path):
    deadline = time.monotonic() + 60
    while True:
        try:
            return ask(address, path)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def test_it_answers_for_the_service(http, synthetic_store):
    body = {"query_embeddings": QUERIES.tolist(), "k": 4, "fields": ["body", "body_token_ids", "uid"]}
    status, answer = ask(http, "/search", body=body)
    assert status == 200
    found = [[hit["block_id"] for hit in hits] for hits in answer["hits"]]
    np.testing.assert_array_equal(found, exact_block_ids(synthetic_store.embeddings(0), QUERIES, 4))
    first = answer["hits"][0][0]
    block = ask(http, f"/blocks/{first['block_id']}")[1]
    assert {name: block[name] for name in ("body", "body_token_ids", "uid")} == {
        name: first[name] for name in ("body", "body_token_ids", "uid")
    }
    body |= {"exclude_uids": [[first["uid"]], []]}
    without = ask(http, "/search", body=body)[1]["hits"]
    assert [hit["block_id"] for hit in without[0][:3]] == found[0][1:]
    assert [hit["block_id"] for hit in without[1]] == found[1]
    assert ask(http, "/readyz")[0] == 200
    snapshots = ask(http, "/snapshots")[1]
    assert snapshots["live"] == answer["snapshot"]
    assert answer["snapshot"] in snapshots["snapshots"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/blocks/400", None, 404),
        ("/blocks/" + "9" * 30, None, 404),
        ("/blocks/1?snapshot=nope", None, 404),
        ("/search", {"query_embeddings": [[1.0, 2.0]]}, 400),
        ("/search", {"query_embeddings": [[1e300] * DIMENSION]}, 400),
        ("/search", {"query_embeddings": [[float("nan")] * DIMENSION]}, 400),
        ("/search", {"query_embeddings": [[1.0] * DIMENSION], "exclude_uids": []}, 400),
    ],
)
def test_what_the_service_cannot_answer(http, path, body, status):
    assert ask(http, path, body=body)[0] == status


def test_started_again_it_goes_on_and_is_not_moved(http):
    url = f"http://{http}"
    assert running_http() == url
    before = process_id()
    assert start_http(http, None) == url
    assert process_id() == before
    with pytest.raises(UsageError, match=f"started with --http {http}"):
        start_http("127.0.0.1:0", None)
    assert ask(http, "/healthz")[0] == 200


def test_another_token_takes_the_place_of_the_last_one(http):
    for token in ("first", "second"):
        start_http(http, token)
        assert ask(http, "/healthz")[0] == 401
        assert ask(http, "/healthz", token=token)[0] == 200
    assert ask(http, "/healthz", token="first")[0] == 401


def test_killed_it_is_back_on_its_address(http):
    before = process_id()
    os.kill(before, signal.SIGKILL)
    assert ask_until_it_answers(http, "/readyz")[0] == 200
    assert process_id() != before


def process_id():
    return ray.get(ray.get_actor(HTTP_NAME, namespace=NAMESPACE).process_id.remote(), timeout=30)
