"""What a swap takes in memory, stated and checked before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from realm_core.errors import UsageError

if TYPE_CHECKING:
    from realm_core.storage.snapshots import ShardEntry, SnapshotManifest

SwapMode = Literal["blue-green", "in-place-per-shard"]

PROCESS_BYTES = 200 << 20
"""Of a shard process beside its shard, measured on Linux with an all but empty one: with FAISS 142 MB resident, of
which 67 MB are its own and the rest pages of libraries that all processes share; 350 MB and 210 MB where it is of the
kind `exact`, which takes PyTorch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SwapMemory:
    """Bytes, over all replicas and the whole cluster."""

    live_bytes: int
    """Taken by the snapshot that is live."""
    next_bytes: int
    """Taken by the next one; both are there until the old processes have drained."""
    free_bytes: int
    """What Ray has not given to any process yet, or to one that waits for the next snapshot."""
    is_mapped: bool
    """True when both are searched in memory-mapped files: then their pages give way where memory is short."""

    def __str__(self) -> str:
        kind = "mapped files" if self.is_mapped else "memory"
        gigabytes = [f"{value / 1e9:.2f} GB" for value in (self.live_bytes, self.next_bytes, self.free_bytes)]
        return "{} of {kind} live + {} for the next snapshot until the swap is done; {} free".format(
            *gigabytes, kind=kind
        )

    def require_room(self, mode: SwapMode, snapshot_id: str) -> None:
        """Raises `UsageError` where two copies do not fit, or where they must and are not mapped files."""
        if mode == "in-place-per-shard" and not self.is_mapped:
            raise UsageError(
                where=f"swap to {snapshot_id}, in place per shard",
                found="a snapshot that is held in memory (index kind scann, or exact on a GPU)",
                expected="one that is searched in memory-mapped files (faiss, flat, exact): only their pages give way",
                action="Swap blue-green on nodes with room for two copies, or index with the kind faiss.",
            )
        if mode == "blue-green" and self.next_bytes > self.free_bytes:
            raise UsageError(
                where=f"swap to {snapshot_id}, blue-green",
                found=str(self),
                expected="room for both snapshots until the swap is done",
                action="Add a node, serve fewer replicas, or, for memory-mapped kinds, swap with "
                "`--swap in-place-per-shard`.",
            )


def memory_of_swap(
    live: SnapshotManifest | None, upcoming: SnapshotManifest, *, replicas: int, free_bytes: int
) -> SwapMemory:
    """What a swap from `live` to `upcoming` takes."""
    entries = (*(live.shards if live else ()), *upcoming.shards)
    return SwapMemory(
        live_bytes=replicas * sum(map(shard_bytes, live.shards)) if live else 0,
        next_bytes=replicas * sum(map(shard_bytes, upcoming.shards)),
        free_bytes=free_bytes,
        is_mapped=all(entry.kind != "scann" for entry in entries),
    )


def shard_bytes(entry: ShardEntry) -> int:
    """What one process of a shard is given."""
    return entry.num_bytes + PROCESS_BYTES
