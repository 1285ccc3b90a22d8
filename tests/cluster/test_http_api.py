import json
import threading
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest

from cluster.http_api import HttpApi, parse_address
from realm_core.errors import DeadlineExceededError, UsageError
from realm_core.retrieval.evidence import Evidence, EvidenceResult


class Client:
    def live_snapshot(self):
        return SimpleNamespace(snapshot_id="step-000001-x")


class Retriever:
    def retrieve(self, texts, num_hits, *, deadline_seconds):
        if texts == ["slow"]:
            raise DeadlineExceededError(where="search", found="nothing", expected="something", action="Wait.")
        block = Evidence(7, 1.5, "Albedo", f"about {texts[0]}")
        return EvidenceResult(((block,) * num_hits,), "step-000001-x", 1)


@pytest.fixture
def make_api():
    started = []

    def make(token=None, address="127.0.0.1:0"):
        api = HttpApi(address, Client(), Retriever(), token)
        threading.Thread(target=api.serve, daemon=True).start()
        started.append(api)
        return api

    yield make
    for api in started:
        api.close()


def get(api, path, token=None):
    request = urllib.request.Request(api.url + path, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_search_and_health_answer(make_api):
    api = make_api()
    status, answer = get(api, "/search?q=ice%20and%20snow&k=2")
    assert status == 200
    assert [hit["body"] for hit in answer["hits"]] == ["about ice and snow"] * 2
    assert answer["encoder_step"] == 1
    assert get(api, "/healthz") == (200, {"snapshot": "step-000001-x"})


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/search", 400),
        ("/search?q=a&k=0", 400),
        ("/search?q=a&k=x", 400),
        ("/search?q=a&k=" + "9" * 5000, 400),
        ("/search?q=slow", 503),
        ("/nope", 404),
    ],
)
def test_wrong_requests_and_failures_have_their_own_status(make_api, path, status):
    found, answer = get(make_api(), path)
    assert found == status
    assert answer["error"]


def test_a_token_is_asked_for_when_there_is_one(make_api):
    api = make_api(token="secret")
    assert get(api, "/healthz")[0] == 401
    assert get(api, "/healthz", token="wrong")[0] == 401
    assert get(api, "/healthz", token="\xe9")[0] == 401
    assert get(api, "/healthz", token="secret")[0] == 200


def test_beyond_loopback_a_token_is_required():
    with pytest.raises(UsageError, match="REALM_HTTP_TOKEN"):
        HttpApi("0.0.0.0:0", Client(), Retriever(), None)


def test_a_port_in_use_is_named(make_api):
    address = make_api().url.removeprefix("http://")
    with pytest.raises(UsageError, match="a port that is in use"):
        HttpApi(address, Client(), Retriever(), None)


@pytest.mark.parametrize("address", ["8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", ":80"])
def test_an_address_without_host_and_port_is_refused(address):
    with pytest.raises(UsageError, match=r"127\.0\.0\.1:8080"):
        parse_address(address)
