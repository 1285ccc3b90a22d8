"""Finding the service's named actors on the cluster, and ending them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ActorDiedError

from cluster.calls import get
from cluster.retrieval.generation import SERVICE_NAME
from cluster.session import NAMESPACE
from realm_core.errors import ServiceUnavailableError

if TYPE_CHECKING:
    from cluster.retrieval.service_status import ServiceConfig

END_SECONDS = 30.0
SECONDS_BETWEEN_LOOKS = 0.05


def find_actor(name: str) -> Any:  # noqa: ANN401 - actor handles are untyped
    """The handle of a named actor, None where there is none."""
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None


def find_service(timeout_seconds: float) -> tuple[Any, list[Any], ServiceConfig]:
    """The controller, the routers and the configuration of the service that runs on this cluster.

    Raises:
        ServiceUnavailableError: none does, or it does not answer in time.
    """
    require_cluster()
    controller = find_actor(SERVICE_NAME)
    if controller is None:
        raise not_there("none on this cluster")
    asked = [controller.config.remote(), controller.routers.remote()]
    try:
        config, routers = get(asked, timeout_seconds=timeout_seconds, what=SERVICE_NAME)
    except ServiceUnavailableError as error:
        if isinstance(error.__cause__, ActorDiedError):  # it was ended; its name is free a moment later
            raise not_there("none on this cluster") from error
        raise
    return controller, routers, config


def end_actor(actor: Any, name: str, *, what: str) -> None:  # noqa: ANN401 - actor handles are untyped
    """Ends a named actor for good; returns when its name is free. Raises `ServiceUnavailableError` where it stays."""
    ray.kill(actor)
    deadline = time.monotonic() + END_SECONDS
    while find_actor(name) is not None:
        if time.monotonic() > deadline:
            raise ServiceUnavailableError(
                where=what,
                found=f"a process that has not ended in {END_SECONDS:g} s",
                expected="its end",
                action="Try again; `ray list actors` shows it.",
            )
        time.sleep(SECONDS_BETWEEN_LOOKS)


def require_cluster() -> None:
    """Raises `ServiceUnavailableError` outside a Ray cluster, where a call to an actor would start one."""
    if not ray.is_initialized():
        raise ServiceUnavailableError(
            where="retrieval service",
            found="a process that has joined no Ray cluster, or left it",
            expected="a driver, task or actor of the cluster that the service runs on",
            action='Join it first: ray.init("auto"), or its address. `realm serve status` shows the service.',
        )


def not_there(found: str) -> ServiceUnavailableError:
    """The error for a service that is not there, or is another one."""
    return ServiceUnavailableError(
        where="retrieval service",
        found=found,
        expected=f"an actor named {SERVICE_NAME}",
        action="Start it with `realm serve --store …`.",
    )
