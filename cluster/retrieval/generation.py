"""A generation: the shard processes of one snapshot, as the controller starts them and the routers ask them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realm_core.storage.snapshots import SnapshotManifest

SERVICE_NAME = "realm-retrieval"
"""Of the controller; the other actors' names begin with it."""

HTTP_NAME = f"{SERVICE_NAME}-http"


@dataclass(frozen=True, slots=True)
class Generation:
    """Handles of the processes that serve a snapshot together; numbers rise with time."""

    number: int
    manifest: SnapshotManifest
    shards: tuple[tuple[Any, ...], ...]
    """For each index shard, in block order, the handles of its replicas."""

    def actors(self) -> list[Any]:
        """All handles."""
        return [replica for replicas in self.shards for replica in replicas]


def router_name(number: int) -> str:
    """Name of a router's actor."""
    return f"{SERVICE_NAME}-router-{number}"


def shard_name(generation: int, shard: int, replica: int) -> str:
    """Name of a shard process's actor."""
    return f"{SERVICE_NAME}-{generation}-shard-{shard}-replica-{replica}"


def is_shard_name(name: str) -> bool:
    """True for names that `shard_name` gives."""
    return name.startswith(f"{SERVICE_NAME}-") and "-shard-" in name
