"""The HTTP front as an actor, so that it goes on with the service when `realm serve` has returned."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.calls import get
from cluster.http_address import listen_on, parse_address, require_token
from cluster.http_api import HttpApi
from cluster.resources import LIGHT_OPTIONS
from cluster.retrieval.client import RetrievalClient, ray_client_is_used
from cluster.retrieval.finding import end_actor, find_actor
from cluster.retrieval.generation import HTTP_NAME
from cluster.retrieval.shard_server import take_priority
from cluster.session import NAMESPACE
from realm_core.errors import RealmError, UsageError

START_SECONDS = 60.0
STOP_SECONDS = 20.0
LOOK_SECONDS = 10.0
RETRY_SECONDS = 0.1


class HttpFront:
    """Holds the API; Ray starts it again, on the same address, when its process dies."""

    def __init__(self, address: str, token: str | None) -> None:
        self._address, self._token = address, token
        self._error: RealmError | None = None
        self._api: HttpApi | None = None
        take_priority()
        try:
            self._api = HttpApi(address, _connect(), token)
        except RealmError as error:
            self._error = error  # a constructor's error would reach the caller as a dead actor, without its message

    def url(self) -> str:
        """Where it answers; raises what its start raised."""
        if self._error is not None:
            raise self._error
        assert self._api is not None
        return self._api.url

    def asked_for(self) -> str:
        """The address that it was started with, also where its port is of the system's choice."""
        return self._address

    def has_token(self, token: str | None) -> bool:
        """True when it runs, and with this token."""
        return self._error is None and self._token == token

    def process_id(self) -> int:
        """Of the front."""
        return os.getpid()

    def close(self) -> None:
        """Answers what it was asked and gives the port back."""
        if self._api is not None:
            self._api.close()


def _connect() -> RetrievalClient:
    """The client; where Ray has started the front again, the controller may be starting again too."""
    was_started_again = ray.get_runtime_context().was_current_actor_reconstructed
    while True:
        try:
            return RetrievalClient.connect(timeout_seconds=START_SECONDS)
        except RealmError:
            if not was_started_again:
                raise
        time.sleep(RETRY_SECONDS)


HttpActor: Any = ray.remote(HttpFront)


def start_http(address: str, token: str | None) -> str:
    """Starts the front of the service on this cluster, on this machine; returns its URL.

    One that runs on this address goes on, or is started anew where the token is another one.

    Raises:
        UsageError: the address cannot be listened on, or asks for a token; or the front runs on another one.
    """
    check_http(address, token)
    running = find_actor(HTTP_NAME)
    if running is not None:
        if get(running.has_token.remote(token), timeout_seconds=START_SECONDS, what="HTTP front"):
            return str(get(running.url.remote(), timeout_seconds=START_SECONDS, what="HTTP front"))
        stop_http()
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = HttpActor.options(
        name=HTTP_NAME,
        namespace=NAMESPACE,
        lifetime="detached",
        max_restarts=-1,
        scheduling_strategy=here,
        **LIGHT_OPTIONS,
    ).remote(address, token)
    try:
        url: str = get(actor.url.remote(), timeout_seconds=START_SECONDS, what="HTTP front")
    except RealmError:
        ray.kill(actor)
        raise
    return url


def check_http(address: str, token: str | None) -> None:
    """Raises the `UsageError` that `start_http` would, before anything is started."""
    require_token(address, token)
    running = find_actor(HTTP_NAME)
    if running is not None:
        its_address = get(running.asked_for.remote(), timeout_seconds=START_SECONDS, what="HTTP front")
        _require_same_address(its_address, address)
    elif not ray_client_is_used():  # through `ray://` the front is on another machine than this process
        listen_on(address).close()


def _require_same_address(running: str, address: str) -> None:
    if parse_address(running) != parse_address(address):
        raise UsageError(
            where=f"--http {address}",
            found=f"an HTTP front of the service that was started with --http {running}",
            expected="none, or one on that address",
            action="Leave --http out, or end the service first: realm serve stop.",
        )


def running_http() -> str | None:
    """The URL of the front that runs on this cluster, or that it does not answer; None where there is none."""
    actor = find_actor(HTTP_NAME)
    if actor is None:
        return None
    try:
        return str(get(actor.url.remote(), timeout_seconds=LOOK_SECONDS, what="HTTP front"))
    except (RealmError, RayError):  # it is being started again, or its node is gone
        return "does not answer"


def stop_http() -> None:
    """Ends the front, if one runs; returns when its port is free."""
    actor = find_actor(HTTP_NAME)
    if actor is None:
        return
    with suppress(RealmError, RayError):
        get(actor.close.remote(), timeout_seconds=STOP_SECONDS, what="HTTP front")
    end_actor(actor, HTTP_NAME, what="HTTP front")
