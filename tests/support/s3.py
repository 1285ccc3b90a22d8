"""An S3 server on this machine, for tests of stores on `s3://` URLs; it can be paused, and its objects survive that.

The server runs in a thread of the test's process and any process of the machine can reach it. A process finds it by
`S3Server.environment`: pass that to subprocesses, and to Ray workers through `runtime_env={"env_vars": …}`, whose
processes otherwise have the environment of the moment when the cluster was started.
"""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress

import pytest
from boto3.session import Session
from moto.moto_api._internal.models import moto_api_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from s3fs import S3FileSystem
from werkzeug.serving import ThreadedWSGIServer

HOST = "127.0.0.1"
SLOW_DOWN = (
    "503 Slow Down",
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>",
)
BROKEN = ("500 Internal Error", b"<Error><Code>InternalError</Code><Message>We made a mistake.</Message></Error>")
DENIED = ("403 Forbidden", b"<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>")


class S3Server:
    """Listens on a free port of its own, the same after each `start`."""

    def __init__(self):
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port = probe.getsockname()[1]
        self.requests = []
        """(method, path) of each request that came in, as in ("GET", "/bucket/key")."""
        self._objects = DomainDispatcherApplication(create_backend_app)
        self._num_to_refuse, self._refusal = 0, SLOW_DOWN
        self._num_to_cut = 0
        self._held_back = self._asked = self._go = None
        self._server = None
        self._thread = None

    @property
    def url(self):
        return f"http://{HOST}:{self.port}"

    @property
    def environment(self):
        """Environment variables by which boto3 and s3fs of any process find the server."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": HOST,
        }

    def start(self):
        """Answers from now on; what was stored before a `stop` is there again."""
        if self._server is None:
            self._server = _Server(HOST, self.port, self._answer, _Handler)
            self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="s3", daemon=True)
            self._thread.start()

    def stop(self):
        """Cuts open connections and refuses new ones, until `start`."""
        if self._server is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.cut_connections()
            self._server = None

    def clear(self):
        """Removes all buckets; all servers of a process share them."""
        moto_api_backend.reset()

    @contextmanager
    def paused(self, seconds):
        """Stopped when the block begins, started by a timer after that many seconds; started when the block ends."""
        self.stop()
        timer = threading.Timer(seconds, self.start)
        timer.start()
        try:
            yield
        finally:
            timer.join()

    def refuse_next(self, num_requests, answer=SLOW_DOWN):
        """Answers that many requests with `SLOW_DOWN`, `BROKEN` or `DENIED`."""
        self._num_to_refuse, self._refusal = num_requests, answer

    def cut_next(self, num_requests):
        """Cuts the connection of that many GET and PUT requests of objects, in the middle of the object's bytes."""
        self._num_to_cut = num_requests

    @contextmanager
    def holding_back(self, path):
        """Does not answer requests for that path before the block ends; yields an event that tells of one."""
        self._held_back, asked, self._go = path, threading.Event(), threading.Event()
        self._asked = asked
        try:
            yield asked
        finally:
            self._held_back = None
            self._go.set()

    def make_bucket(self, name):
        """Returns its URL, `s3://name`."""
        credentials = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        client = Session().client("s3", endpoint_url=self.url, **credentials)
        client.create_bucket(Bucket=name)
        client.close()
        return f"s3://{name}"

    def num_reads(self, path):
        """GET requests of an object, as in `bucket/key`."""
        return self.requests.count(("GET", f"/{path}"))

    def _answer(self, environ, start_response):
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        if environ["PATH_INFO"] == self._held_back:
            self._asked.set()
            self._go.wait()
        if self._num_to_refuse > 0:
            self._num_to_refuse -= 1
            return _refuse(environ, start_response, self._refusal)
        if self._num_to_cut > 0 and environ["REQUEST_METHOD"] in ("GET", "PUT"):
            self._num_to_cut -= 1
            return _cut(environ, start_response, self._objects)
        return self._objects(environ, start_response)


def _refuse(environ, start_response, answer):
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    status, body = answer
    start_response(status, [("Content-Type", "application/xml")])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def _cut(environ, start_response, objects):
    connection = environ["werkzeug.socket"]
    if environ["REQUEST_METHOD"] == "PUT":
        environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]) // 2)
        connection.shutdown(socket.SHUT_RDWR)
        start_response("500 Cut", [])
        return
    body = b"".join(objects(environ, start_response))
    yield body[: len(body) // 2]
    connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def s3_server(monkeypatch, tmp_path):
    """A started server that this process's stores find; give it to a test by importing it into a conftest.py."""
    server = S3Server()
    server.start()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("REALM_CACHE", str(tmp_path / "cache"))
    S3FileSystem.clear_instance_cache()  # a cached one would go on speaking to the server of an earlier test
    yield server
    server.stop()
    server.clear()
    S3FileSystem.clear_instance_cache()


class _Server(ThreadedWSGIServer):
    """Knows its open connections, so that it can cut them."""

    def __init__(self, *arguments):
        self._connections = set()
        super().__init__(*arguments)

    def get_request(self):
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request):
        self._connections.discard(request)
        super().shutdown_request(request)

    def cut_connections(self):
        for connection in list(self._connections):
            with suppress(OSError):  # its client was faster
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request, client_address):
        """A connection that was cut is no news."""


class _Handler(MotoRequestHandler):
    """Writes no log: it would end up in the tests' output."""

    protocol_version = "HTTP/1.1"

    def send_response(self, code, message=None):
        self.send_response_only(code, message)  # the headers Server and Date come from the application

    def log(self, *arguments):
        pass
