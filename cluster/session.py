"""Starting and joining Ray. Who started it stops it."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "32")  # else the raylet warns of many small actors

import ray

from cluster.address import cluster_address
from realm_core.errors import ServiceUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMESPACE = "realm"
CONNECT_SECONDS = 10.0
OBJECT_STORE_BYTES = 256 * 1024 * 1024
"""Of a local cluster: only batches and top-k lists pass through it; big arrays go by file."""


@contextmanager
def ray_session(address: str | None = None, *, object_store_bytes: int = OBJECT_STORE_BYTES) -> Iterator[None]:
    """Joins the cluster at `address` (`auto`, `ray://…`), or else the one that RAY_ADDRESS names; without either, it
    starts one on this machine for the time of the block, whatever other clusters run there.

    Inside an open session it does nothing, so that runs can be put together.

    Raises:
        ServiceUnavailableError: no cluster answers at `address`.
    """
    if ray.is_initialized():
        yield
        return
    _start(address, object_store_bytes)
    try:
        yield
    finally:
        ray.shutdown()


def _protect() -> None:
    """A local cluster listens beyond loopback, so it takes a token that only this process and its children know."""
    if "RAY_AUTH_MODE" not in os.environ:  # unset means token for a local cluster; Ray would leave it in a file
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def cluster_capacity() -> tuple[float, float]:
    """CPUs and GPUs of the whole cluster."""
    resources = ray.cluster_resources()
    return float(resources.get("CPU", 1.0)), float(resources.get("GPU", 0.0))


def _start(address: str | None, object_store_bytes: int) -> None:
    options = {"namespace": NAMESPACE, "logging_level": logging.ERROR, "log_to_driver": False}
    address = cluster_address(address)
    if address is None:
        _protect()
        ray.init("local", include_dashboard=False, object_store_memory=object_store_bytes, **options)
        return
    try:
        _require_listener(address)
        ray.init(address=address, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise ServiceUnavailableError(
            where=f"--address {address}",
            found=str(error).splitlines()[0],
            expected="a running Ray cluster",
            action="Start one with `ray start --head`, or leave --address out to run on this machine.",
        ) from error


def _require_listener(address: str) -> None:
    """Raises `OSError` where nothing takes connections: Ray itself tries for minutes, and logs each time."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
