"""What `realm serve` takes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from cluster.address import joins_a_cluster
from cluster.http_address import TOKEN_VARIABLE, require_token
from cluster.retrieval.memory import SwapMode
from pipelines.validation import at_least
from realm_core.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """Serve a store's published snapshot from named actors; what is published later goes live by itself.

    On a cluster (--address) `realm serve` starts the service, or attaches to the one that runs, and returns; `realm
    serve status` and `realm serve stop` look after it. Without one it serves on this machine until Ctrl-C.
    """

    action: Annotated[Literal["start", "status", "stop"], tyro.conf.Positional] = "start"
    """start; status: what runs, how fast and how healthy; stop."""
    store: str | None = None
    """Where artifacts live: a local folder or an fsspec URL. For start."""
    replicas: int = 1
    """Processes of each index shard; with two, one that dies costs no waiting."""
    routers: int = 1
    """Processes that take searches and merge what the shards find."""
    follow: bool = True
    """Whether a snapshot that is published later goes live by itself."""
    swap: SwapMode = "blue-green"
    """blue-green: the next snapshot is loaded beside the live one; in-place-per-shard: shard after shard, in no memory
    of its own, for memory-mapped kinds where two copies do not fit."""
    http: str | None = None
    """Address of an HTTP front, such as 127.0.0.1:8080; beyond loopback REALM_HTTP_TOKEN must be set."""
    address: str | None = None
    """Ray cluster to join (`auto`, `ray://...`); by default one is started on this machine."""

    def __post_init__(self) -> None:
        at_least("realm serve", replicas=(self.replicas, 1), routers=(self.routers, 1))
        if self.http is not None:
            require_token(self.http, os.environ.get(TOKEN_VARIABLE))
        if self.action == "start" and self.store is None:
            raise UsageError(
                where="realm serve",
                found="no --store",
                expected="the store to serve",
                action="Name it: --store FOLDER.",
            )
        if self.action != "start" and not joins_a_cluster(self.address):
            raise UsageError(
                where=f"realm serve {self.action}",
                found="no --address",
                expected="the cluster that the service runs on",
                action="Add --address auto on one of its machines, or set RAY_ADDRESS.",
            )
