"""The retrieval service: a process per index shard and replica, routers in front, a controller; all named actors.

A swap loads the next snapshot into new shard processes beside the old ones, warms and checks them, and flips the
routers between two batches; the old processes answer what they were asked and end. Each search is answered by the
shards of one snapshot, whole. What each process does is in `cluster.retrieval`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import ray

from cluster.calls import get
from cluster.resources import LIGHT_OPTIONS
from cluster.retrieval.client import RetrievalClient
from cluster.retrieval.controller import ControllerActor
from cluster.retrieval.finding import end_actor, find_actor, not_there, require_cluster
from cluster.retrieval.generation import HTTP_NAME, SERVICE_NAME
from cluster.retrieval.memory import SwapMemory, SwapMode
from cluster.retrieval.metrics import RouterStatus
from cluster.retrieval.service_status import ServiceConfig, ServiceStatus, SwapResult
from cluster.retrieval.shard_processes import LOAD_TIMEOUT_SECONDS
from cluster.retrieval.wire import new_token
from cluster.session import NAMESPACE
from realm_core.errors import RealmError, UsageError
from realm_core.storage.snapshots import load_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from realm_core.storage.files import Store

__all__ = [
    "RetrievalClient",
    "RouterStatus",
    "ServiceConfig",
    "ServiceStatus",
    "SwapMemory",
    "SwapMode",
    "SwapResult",
    "service_is_running",
    "service_left_as_found",
    "start_service",
    "stop_service",
]


def start_service(
    store: Store, *, replicas: int = 1, routers: int = 1, follow: bool = False, swap: SwapMode = "blue-green"
) -> RetrievalClient:
    """Starts the service on the store's current snapshot, or attaches to the one that runs; returns when it is ready.

    It outlives the driver that started it, if the cluster does; `stop_service` ends it.

    Args:
        store: what to serve.
        replicas: processes of each index shard; with two or more, one that dies costs no waiting.
        routers: processes that take searches.
        follow: whether a snapshot that is published later goes live by itself.
        swap: how, when it does.

    Raises:
        StoreError: nothing is published, or an index shard is damaged.
        UsageError: a service of another store runs on this cluster.
    """
    load_snapshot(store)
    config = ServiceConfig(
        store_url=store.url, token=new_token(), replicas=replicas, routers=routers, follow=follow, swap=swap
    )
    controller = ControllerActor.options(
        name=SERVICE_NAME,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=100,
        **LIGHT_OPTIONS,
    ).remote(config)
    running = get(controller.config.remote(), timeout_seconds=60.0, what=SERVICE_NAME)
    _require_same_store(running, config)
    try:
        get(controller.start.remote(), timeout_seconds=LOAD_TIMEOUT_SECONDS, what=SERVICE_NAME)
    except RealmError:
        if running == config:  # it is ours and serves nothing
            stop_service()
        raise
    return RetrievalClient.connect()


def stop_service() -> None:
    """Ends the service of this cluster and returns when it is gone: searches under way fail.

    Raises `ServiceUnavailableError` where none runs.
    """
    require_cluster()
    controller = find_actor(SERVICE_NAME)
    if controller is None:
        raise not_there("none on this cluster")
    front = find_actor(HTTP_NAME)
    if front is not None:
        ray.kill(front)
    get(controller.stop.remote(), timeout_seconds=60.0, what=SERVICE_NAME)
    end_actor(controller, SERVICE_NAME, what="retrieval service")


def service_is_running() -> bool:
    """True when this cluster has a service, ready or not."""
    return find_actor(SERVICE_NAME) is not None


@contextmanager
def service_left_as_found() -> Iterator[None]:
    """For runs that need the service while they last: one that is started within ends with the block, also on a cluster
    that goes on; one that ran before goes on.
    """
    was_running = service_is_running()
    try:
        yield
    finally:
        if not was_running and service_is_running():
            stop_service()


def _require_same_store(running: ServiceConfig, wanted: ServiceConfig) -> None:
    if running.store_url != wanted.store_url:
        raise UsageError(
            where="retrieval service",
            found=f"one of store {running.store_url} on this cluster",
            expected=f"none, or one of store {wanted.store_url}",
            action="Stop it first: realm serve stop.",
        )
