"""A generation: the shard processes of one snapshot, as the controller starts them and the routers ask them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realm_core.index.setting import SearchSetting
    from realm_core.storage.snapshots import ShardEntry, SnapshotManifest

SERVICE_NAME = "realm-retrieval"
"""Of the controller; the other actors' names begin with it."""

HTTP_NAME = f"{SERVICE_NAME}-http"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardTask:
    """What a shard process serves."""

    store_url: str
    snapshot_id: str
    entry: ShardEntry
    setting: SearchSetting
    dimension: int
    threads: int
    token: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """The processes that serve a snapshot together; numbers rise with time."""

    number: int
    manifest: SnapshotManifest
    tasks: tuple[ShardTask, ...]
    """For each index shard, in block order, what its processes serve."""
    shards: tuple[tuple[Any, ...], ...]
    """For each index shard the handles of its replicas."""


def router_name(number: int) -> str:
    """Name of a router's actor."""
    return f"{SERVICE_NAME}-router-{number}"


def shard_name(generation: int, shard: int, replica: int) -> str:
    """Name of a shard process's actor."""
    return f"{SERVICE_NAME}-{generation}-shard-{shard}-replica-{replica}"


def is_shard_name(name: str) -> bool:
    """True for names that `shard_name` gives."""
    return name.startswith(f"{SERVICE_NAME}-") and "-shard-" in name
