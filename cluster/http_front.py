"""The HTTP front as an actor, so that it goes on with the service when `realm serve` has returned."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.calls import get
from cluster.http_api import HttpApi, require_token
from cluster.resources import LIGHT_OPTIONS
from cluster.retrieval.client import RetrievalClient
from cluster.retrieval.generation import HTTP_NAME
from cluster.session import NAMESPACE
from realm_core.errors import RealmError

START_SECONDS = 60.0


class HttpFront:
    """Holds the API; Ray starts it again, on the same address, when its process dies."""

    def __init__(self, address: str, token: str | None) -> None:
        self._error: RealmError | None = None
        try:
            self._api = HttpApi(address, RetrievalClient.connect(timeout_seconds=START_SECONDS), token)
        except RealmError as error:
            self._error = error  # a constructor's error would reach the caller as a dead actor, without its message

    def url(self) -> str:
        """Where it answers; raises what its start raised."""
        if self._error is not None:
            raise self._error
        return self._api.url


HttpActor: Any = ray.remote(HttpFront)


def start_http(address: str, token: str | None) -> str:
    """Starts the front of the service on this cluster, on this machine, in place of one that runs; returns its URL.

    Raises:
        UsageError: the address cannot be listened on, or asks for a token.
    """
    require_token(address, token)
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


def running_http() -> str | None:
    """The URL of the front that runs on this cluster, if one does."""
    try:
        actor = ray.get_actor(HTTP_NAME, namespace=NAMESPACE)
    except ValueError:
        return None
    url: str = get(actor.url.remote(), timeout_seconds=START_SECONDS, what="HTTP front")
    return url


def stop_http() -> None:
    """Ends the front, if one runs."""
    with suppress(ValueError):
        ray.kill(ray.get_actor(HTTP_NAME, namespace=NAMESPACE))
