import json
import threading
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest

from cluster.http_address import parse_address
from cluster.http_api import HttpApi
from pipelines.http_search import search_http
from realm_core.errors import (
    ArtifactCorruptError,
    DeadlineExceededError,
    OverloadedError,
    QueryError,
    ServiceUnavailableError,
    StoreError,
    UsageError,
)
from realm_core.retrieval.snapshot_search import SearchResult
from realm_core.storage.files import Store

WORDS = {"where": "search", "found": "nothing", "expected": "something", "action": "Wait."}
NUM_BLOCKS = 10


class Client:
    """Finds blocks 0, 1, ... of ten; a text names what goes wrong."""

    def __init__(self, store):
        self.store = store
        self.asked = {}
        self.go_on = threading.Event()
        self.down = []

    def live_snapshot(self, *, deadline_seconds=30.0):
        return SimpleNamespace(snapshot_id="step-000001-x", encoder_step=1, num_rows=NUM_BLOCKS)

    def corpus_of(self, snapshot_id):
        if snapshot_id != "step-000001-x":
            raise (ArtifactCorruptError if snapshot_id == "damaged" else StoreError)(**WORDS)
        return "corpus"

    def status(self, *, timeout_seconds):
        assert timeout_seconds <= 10
        return SimpleNamespace(what_is_down=lambda: self.down, snapshot=self.live_snapshot())

    def search_text(self, texts, num_hits, *, deadline_seconds, exclude_uids=None):
        errors = {"late": DeadlineExceededError, "busy": OverloadedError, "down": ServiceUnavailableError}
        if texts[0] in errors:
            raise errors[texts[0]](**WORDS)
        if texts[0] == "bug":
            raise ZeroDivisionError
        if texts[0] == "wait":
            self.go_on.wait(20)
        self.asked = {"texts": texts, "deadline_seconds": deadline_seconds, "exclude_uids": exclude_uids}
        return self._result(len(texts), num_hits)

    def search(self, queries_BD, num_hits, *, deadline_seconds, exclude_uids=None):
        if queries_BD.shape[1:] != (3,):
            raise QueryError(**WORDS)
        self.asked = {"queries": queries_BD.tolist(), "dtype": str(queries_BD.dtype)}
        return self._result(len(queries_BD), num_hits)

    def blocks(self, result, fields=("title", "body")):
        return self.fields_of("corpus", result.block_ids_BK, fields)

    def fields_of(self, corpus_digest, block_ids_BK, fields):
        if block_ids_BK.max() >= NUM_BLOCKS:
            raise QueryError(**WORDS)
        make = {
            "uid": lambda i: bytes([i]) * 20,
            "title_token_ids": lambda i: np.array([i], np.uint16),
            "body_token_ids": lambda i: np.array([i, 7], np.uint16),
        }
        return {
            f: [
                [make.get(f, lambda i, f=f: f"{f} {i}")(i) if i >= 0 else None for i in ids]
                for ids in block_ids_BK.tolist()
            ]
            for f in fields
        }

    def _result(self, num_queries, num_hits):
        ids = np.tile(np.where(np.arange(num_hits) < NUM_BLOCKS, np.arange(num_hits), -1), (num_queries, 1))
        return SearchResult(np.where(ids < 0, -np.inf, 10.0 - ids).astype(np.float32), ids, "step-000001-x", 1)


@pytest.fixture
def make_api(tmp_path):
    started = []

    def make(token=None, address="127.0.0.1:0"):
        client = Client(Store(str(tmp_path)))
        api = HttpApi(address, client, token)
        started.append(api)
        return api, client

    yield make
    for api in started:
        api.close()


def ask(api, path, *, token=None, body=None, headers=None):
    headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
    data = None if body is None else json.dumps(body).encode()
    if data:
        headers["Content-Type"] = "application/json"
    request = urllib.request.Request(api.url + path, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.loads(response.read()), response.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read()), error.headers


def test_a_text_is_searched_and_its_blocks_come_with_their_words(make_api):
    api, client = make_api()
    status, answer, _ = ask(api, "/search?q=ice%20and%20snow&k=2")
    assert status == 200
    assert (answer["snapshot"], answer["encoder_step"]) == ("step-000001-x", 1)
    assert answer["hits"] == [
        [
            {"block_id": 0, "relevance": 10.0, "title": "title 0", "body": "body 0"},
            {"block_id": 1, "relevance": 9.0, "title": "title 1", "body": "body 1"},
        ]
    ]
    assert client.asked["texts"] == ["ice and snow"]


def test_many_texts_with_uids_left_out_and_token_ids_asked_for(make_api):
    api, client = make_api()
    body = {
        "texts": ["a", "b"],
        "k": 12,
        "deadline_seconds": 2,
        "exclude_uids": [["ab" * 20], []],
        "fields": ["uid", "body_token_ids"],
    }
    status, answer, _ = ask(api, "/search", body=body)
    assert status == 200
    assert [len(hits) for hits in answer["hits"]] == [NUM_BLOCKS] * 2, "missing hits are left out"
    assert answer["hits"][1][3] == {"block_id": 3, "relevance": 7.0, "uid": "03" * 20, "body_token_ids": [3, 7]}
    assert 1 < client.asked.pop("deadline_seconds") < 2
    assert client.asked == {"texts": ["a", "b"], "exclude_uids": [[b"\xab" * 20], []]}


def test_query_embeddings_are_searched_as_float32(make_api):
    api, client = make_api()
    status, answer, _ = ask(api, "/search", body={"query_embeddings": [[1, 2, 3]], "k": 1})
    assert (status, answer["hits"]) == (200, [[{"block_id": 0, "relevance": 10.0}]])
    assert client.asked == {"queries": [[1.0, 2.0, 3.0]], "dtype": "float32"}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/search", None, 400),
        ("/search?q=%20", None, 400),
        ("/search?q=a&k=0", None, 400),
        ("/search?q=a&k=x", None, 400),
        ("/search?q=a&k=" + "9" * 5000, None, 400),
        ("/search?q=late", None, 504),
        ("/search?q=busy", None, 503),
        ("/search?q=down", None, 503),
        ("/nope", None, 404),
        ("/blocks/10", None, 404),
        ("/blocks/-1", None, 400),
        ("/blocks/x", None, 400),
        ("/blocks/1?snapshot=other", None, 404),
        ("/blocks/1?snapshot=damaged", None, 500),
        ("/blocks/1?snapshot=..%2F..%2Fsecret", None, 400),
        ("/blocks/" + "9" * 30, None, 404),
        ("/healthz", {}, 405),
        ("/search?q=bug", None, 500),
        ("/search?q=" + "a" * 10_001, None, 400),
        ("/search", "\ud800", 400),
        ("/search", {"texts": ["\ud800"]}, 400),
        ("/search", {"texts": [""]}, 400),
        ("/search", {"texts": ["a"], "deadline_seconds": 0}, 400),
        ("/search", {"texts": ["a"], "exclude_uids": [[1]]}, 400),
        ("/search", {"query_embeddings": [[]]}, 400),
        ("/search", {"query_embeddings": [["x"] * 3] * 900}, 400),
        ("/search", {}, 400),
        ("/search", {"texts": ["a"], "query_embeddings": [[1, 2, 3]]}, 400),
        ("/search", {"texts": ["a"], "k": 1001}, 400),
        ("/search", {"texts": ["a", " "]}, 400),
        ("/search", {"texts": ["a"], "exclude_uids": [["xy"]]}, 400),
        ("/search", {"texts": ["a"], "unknown": 1}, 400),
        ("/search", {"texts": ["a"] * 1001}, 400),
        ("/search", {"query_embeddings": [[1, 2], [1]]}, 400),
        ("/search", {"query_embeddings": [[1, 2]]}, 400),
        ("/search", {"texts": ["a"], "fields": ["nope"]}, 400),
    ],
)
def test_what_cannot_be_answered_is_a_status_and_a_reason(make_api, path, body, status):
    found, answer, headers = ask(make_api()[0], path, body=body)
    assert found == status
    require_facts(answer)
    assert ("Retry-After" in headers) == (status == 503)


def require_facts(answer):
    """All of them, in words, and together in one sentence."""
    assert set(answer) == {"error", *WORDS}
    assert all(answer.values())
    assert answer["error"] == "{where}: {found}; expected {expected}. {action}".format(**answer)


@pytest.mark.parametrize(
    ("path", "body", "found", "expected"),
    [
        ("/search?q=a&k=0", None, "query.k '0'", "query.k: greater than or equal to 1"),
        ("/search", None, "no query.q", "query.q: Field required"),
        ("/search", {"texts": ["a"], "k": 1001}, "body.k 1001", "body.k: less than or equal to 1000"),
        ("/search", {"texts": ["a"], "unknown": 1}, "body.unknown 1", "body.unknown: Extra inputs are not permitted"),
        ("/search", {"query_embeddings": [["x" * 99]]}, "body.query_embeddings.0.0 '" + "x" * 39 + "…", "valid number"),
        ("/nope", None, "Not Found", "a path and a method that there are"),
    ],
)
def test_a_malformed_request_says_what_was_found_and_what_was_expected(make_api, path, body, found, expected):
    _, answer, _ = ask(make_api()[0], path, body=body)
    assert answer["where"] == f"{'GET' if body is None else 'POST'} {path.split('?')[0]}"
    assert answer["found"] == found
    assert expected in answer["expected"]
    assert "/docs" in answer["action"]


def test_of_many_problems_the_first_are_told(make_api):
    _, answer, _ = ask(make_api()[0], "/search", body={"query_embeddings": [["x"] * 3] * 900})
    assert answer["found"].endswith("; 2695 more")
    assert answer["found"].count("query_embeddings") == 5


def test_an_error_of_ours_says_its_four_facts(make_api):
    _, answer, _ = ask(make_api()[0], "/search?q=late")
    assert {name: answer[name] for name in WORDS} == WORDS


def test_a_body_that_is_too_large_is_refused_unread(make_api):
    import socket

    api, _ = make_api()
    host, port = api.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        length = b"Content-Length: 99999999999\r\nConnection: close\r\n"
        connection.sendall(b"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\n" + length + b"\r\n")
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
        assert b" 413 " in head.split(b"\r\n")[0]
        require_facts(json.loads(body))


def test_a_block_with_all_its_fields(make_api):
    status, answer, _ = ask(make_api()[0], "/blocks/4")
    assert status == 200
    assert answer == {
        "block_id": 4, "snapshot": "step-000001-x", "uid": "04" * 20, "document_id": "document_id 4",
        "title": "title 4", "body": "body 4", "title_token_ids": [4], "body_token_ids": [4, 7],
    }  # fmt: skip


def test_health_readiness_and_snapshots(make_api):
    api, client = make_api()
    assert ask(api, "/healthz")[:2] == (200, {"status": "alive"})
    assert ask(api, "/readyz")[:2] == (200, {"status": "ready", "live": "step-000001-x"})
    client.down = ["router 1 does not answer"]
    status, answer, headers = ask(api, "/readyz")
    assert (status, answer["found"], headers["Retry-After"]) == (503, "router 1 does not answer", "1")
    require_facts(answer)
    status, answer, _ = ask(api, "/snapshots")
    assert (status, answer["live"], answer["snapshots"]) == (200, "step-000001-x", [])


def test_openapi_lists_the_paths(make_api):
    _, answer, _ = ask(make_api()[0], "/openapi.json")
    assert set(answer["paths"]) == {"/search", "/blocks/{block_id}", "/healthz", "/readyz", "/snapshots"}


def test_the_page_of_what_there_is_names_every_path_and_fetches_nothing(make_api):
    api, _ = make_api()
    with urllib.request.urlopen(f"{api.url}/docs", timeout=20) as response:
        page = response.read().decode()
    for path in ask(api, "/openapi.json")[1]["paths"]:
        assert f" {path}</h2>" in page
    assert "exclude_uids" in page and "at most 1,000" in page
    assert not [tag for tag in ("<script", "<link", "<img", "src=", "://") if tag in page]
    assert ask(api, "/redoc")[0] == 404


def test_errors_are_described_as_they_are(make_api):
    _, answer, _ = ask(make_api()[0], "/openapi.json")
    for path in ("/search", "/blocks/{block_id}"):
        responses = answer["paths"][path]["get"]["responses"]
        assert {"400", "401", "503", "504"} <= set(responses)
        assert "422" not in responses
        assert responses["400"]["content"]["application/json"]["schema"]["$ref"].endswith("ErrorAnswer")


def test_the_rest_answers_while_more_searches_wait_than_there_are_threads(make_api):
    api, client = make_api()
    waiting = [threading.Thread(target=ask, args=(api, "/search?q=wait")) for _ in range(80)]
    for thread in waiting:
        thread.start()
    started = time.monotonic()
    assert [ask(api, path)[0] for path in ("/healthz", "/readyz", "/snapshots", "/blocks/1")] == [200] * 4
    assert time.monotonic() - started < 10
    client.go_on.set()
    for thread in waiting:
        thread.join()


def test_a_search_that_waited_for_a_thread_until_its_deadline_is_late(make_api, monkeypatch):
    monkeypatch.setattr("cluster.http_api.NUM_SEARCH_THREADS", 1)
    api, client = make_api()
    first = threading.Thread(target=ask, args=(api, "/search?q=wait"))
    first.start()
    time.sleep(0.3)
    late = []
    second = threading.Thread(target=lambda: late.append(ask(api, "/search?q=a&deadline_seconds=0.1")))
    second.start()
    time.sleep(0.5)
    client.go_on.set()
    first.join()
    second.join()
    assert late[0][0] == 504


def test_more_waiting_searches_than_can_be_answered_are_refused(make_api, monkeypatch):
    monkeypatch.setattr("cluster.http_api.MAX_WAITING_SEARCHES", 1)
    api, client = make_api()
    first = threading.Thread(target=ask, args=(api, "/search?q=wait"))
    first.start()
    time.sleep(0.3)
    status, answer, headers = ask(api, "/search?q=a")
    assert (status, headers["Retry-After"]) == (503, "1")
    assert "searches that wait" in answer["found"]
    client.go_on.set()
    first.join()


@pytest.mark.parametrize("path", ["/search?q=a", "/healthz", "/docs", "/openapi.json", "/nope"])
def test_with_a_token_every_path_asks_for_it(make_api, path):
    api, _ = make_api(token="secret-ü")
    for token in (None, "wrong"):
        status, answer, headers = ask(api, path, token=token)
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        require_facts(answer)


def test_the_token_opens(make_api):
    api, _ = make_api(token="secret")
    assert ask(api, "/search?q=a", token="secret")[0] == 200


def test_beyond_loopback_a_token_is_needed(make_api):
    with pytest.raises(UsageError, match="REALM_HTTP_TOKEN"):
        make_api(address="0.0.0.0:0")


def test_without_a_token_no_other_name_than_loopback_s_is_answered(make_api):
    api, _ = make_api()
    status, answer, _ = ask(api, "/healthz", headers={"Host": "evil.example"})
    assert status == 421
    require_facts(answer)
    assert ask(api, "/healthz", headers={"Host": "localhost:1"})[0] == 200


def test_a_port_in_use_is_an_error_that_says_so(make_api):
    api, _ = make_api()
    with pytest.raises(UsageError, match="in use"):
        make_api(address=api.url.removeprefix("http://"))


@pytest.mark.parametrize("address", ["8080", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:99999", ":80"])
def test_a_malformed_address_is_refused(address):
    with pytest.raises(UsageError, match="such as"):
        parse_address(address)


def test_the_command_line_s_client_reads_it(make_api):
    api, _ = make_api(token="secret")
    found = search_http(api.url, "snow", 2, "secret")
    assert [(block.block_id, block.title) for block in found.queries[0]] == [(0, "title 0"), (1, "title 1")]
    with pytest.raises(UsageError, match=r"HTTP 401.*REALM_HTTP_TOKEN"):
        search_http(api.url, "snow", 2, None)
    with pytest.raises(ServiceUnavailableError, match="HTTP 504"):
        search_http(api.url, "late", 2, "secret")
    with pytest.raises(ServiceUnavailableError, match="no answer"):
        search_http("http://127.0.0.1:1", "snow", 2, None)
    with pytest.raises(UsageError, match="no web address"):
        search_http("file:///etc/passwd", "snow", 2, None)
