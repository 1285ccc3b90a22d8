"""What garbage collection keeps and what it removes: a pure decision over names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from realm_core.storage.snapshots import SnapshotManifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifacts:
    """Digests of artifacts, by kind."""

    shards: frozenset[str] = frozenset()
    embeddings: frozenset[str] = frozenset()
    encoders: frozenset[str] = frozenset()

    def __or__(self, other: Artifacts) -> Artifacts:
        return Artifacts(
            shards=self.shards | other.shards,
            embeddings=self.embeddings | other.embeddings,
            encoders=self.encoders | other.encoders,
        )

    def __sub__(self, other: Artifacts) -> Artifacts:
        return Artifacts(
            shards=self.shards - other.shards,
            embeddings=self.embeddings - other.embeddings,
            encoders=self.encoders - other.encoders,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RemovalPlan:
    """Kept and removed snapshots are all that were found; so it is with artifacts."""

    kept: dict[str, str]
    """Why each kept snapshot is kept, oldest first."""
    removed: tuple[str, ...]
    """Snapshots to remove, oldest first."""
    artifacts: Artifacts
    """To remove: what no kept snapshot names, nor anything else."""


def plan_removal(
    manifests: Mapping[str, SnapshotManifest],
    stored: Artifacts,
    *,
    live: str | None,
    previous: str | None,
    num_newest: int,
    pinned: Mapping[str, str],
    named_elsewhere: Artifacts,
) -> RemovalPlan:
    """Divides what is in the store.

    Args:
        manifests: all snapshots of the store, by id.
        stored: all artifacts of the store.
        live: is kept.
        previous: what rolling back leads to; is kept.
        num_newest: so many snapshots are kept, by the moment when their encoder left training.
        pinned: snapshots that are kept for another reason, with that reason.
        named_elsewhere: artifacts that are kept whatever the snapshots name.
    """
    oldest_first = sorted(manifests, key=lambda one: _age_key(one, manifests[one]))
    newest = set(oldest_first[max(0, len(oldest_first) - num_newest) :])
    reasons = {
        one: [
            *(["live"] if one == live else []),
            *(["previous"] if one == previous else []),
            *([f"among the newest {num_newest}"] if one in newest else []),
            *([pinned[one]] if one in pinned else []),
        ]
        for one in oldest_first
    }
    kept = {one: ", ".join(why) for one, why in reasons.items() if why}
    needed = named_elsewhere
    for one in kept:
        needed |= artifacts_of(manifests[one])
    removed = tuple(one for one in oldest_first if one not in kept)
    return RemovalPlan(kept=kept, removed=removed, artifacts=stored - needed)


def artifacts_of(*manifests: SnapshotManifest) -> Artifacts:
    """What the snapshots name."""
    return Artifacts(
        shards=frozenset(shard.digest for manifest in manifests for shard in manifest.shards),
        embeddings=frozenset(digest for manifest in manifests for digest in manifest.embedding_digests),
        encoders=frozenset(manifest.encoder_digest for manifest in manifests),
    )


def _age_key(snapshot_id: str, manifest: SnapshotManifest) -> tuple[float, int, str]:
    return manifest.encoder_saved_at_seconds, manifest.encoder_step, snapshot_id
