"""How an index is searched: what can be changed without building it again."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from realm_core.errors import ArtifactCorruptError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from realm_core.storage.snapshots import ShardEntry

_ROWS_PER_HIT = 8
"""Leaves are of uneven size: those looked into should hold this many rows for each hit asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSetting:
    """How thoroughly an index with leaves is searched; the kinds that compare all rows have nothing to set.

    One setting is for all shards of a snapshot, whatever their sizes: `realm index` chooses it by measuring.
    """

    leaf_fraction: float = 1 / 8
    """Share of the leaves looked into, above 0 and at most 1; more is more recall and less speed."""
    num_reordered: int = 200
    """Candidates, ranked by their codes, whose relevance is computed from the stored vector."""

    def __post_init__(self) -> None:
        problems = []
        if not 0 < self.leaf_fraction <= 1:
            problems.append(f"leaf_fraction = {self.leaf_fraction} (above 0, at most 1)")
        if self.num_reordered < 1:
            problems.append(f"num_reordered = {self.num_reordered} (at least 1)")
        if problems:
            raise UsageError(
                where="search setting",
                found="; ".join(problems),
                expected="the values in brackets",
                action="Let `realm index` choose the setting, or correct these fields.",
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values, keys sorted."""
        return dict(sorted(asdict(self).items()))

    @classmethod
    def from_json(cls, values: dict[str, Any], *, where: str = "search setting of a snapshot") -> SearchSetting:
        """The inverse of `to_json`; raises `ArtifactCorruptError` for fields that are not its own."""
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            raise ArtifactCorruptError(
                where=where,
                found=f"the fields {sorted(values)}",
                expected=f"the fields {sorted(names)}",
                action="Run `realm index` again with this version of the program.",
            )
        return cls(**values)

    def leaves_for(self, num_leaves: int, num_hits: int, num_rows: int) -> int:
        """How many of `num_leaves` leaves over `num_rows` rows to look into, so that `num_hits` can be found."""
        enough_for_hits = math.ceil(_ROWS_PER_HIT * num_hits * num_leaves / num_rows)
        return min(num_leaves, max(1, round(self.leaf_fraction * num_leaves), enough_for_hits))

    def reordered_for(self, num_hits: int, num_rows: int) -> int:
        """How many candidates to score from their stored vectors for `num_hits` hits."""
        return min(num_rows, max(self.num_reordered, num_hits))


DEFAULT_SETTING = SearchSetting()
"""For an index that nobody has tuned yet: an eighth of the leaves, 200 candidates."""


def setting_text(setting: SearchSetting, shards: Sequence[ShardEntry]) -> str:
    """The setting in words, for a report."""
    kinds = ", ".join(sorted({shard.kind for shard in shards}))
    if kinds in ("exact", "flat"):
        return f"{kinds}: all rows compared" + (", as there are few a shard" if kinds == "flat" else "")
    return f"{kinds}: {setting.leaf_fraction:.3%} of the leaves, {setting.num_reordered} candidates reordered"
