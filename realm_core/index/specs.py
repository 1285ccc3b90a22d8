"""Which index, with which parameters: all of them follow from the kind and the number of rows."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from realm_core.errors import ArtifactCorruptError, UsageError

IndexKind = Literal["auto", "exact", "faiss", "scann"]
ResolvedKind = Literal["exact", "flat", "faiss", "scann"]

FLAT_MAX_ROWS = 50_000
"""Up to here all rows are compared: more than 4,000 queries a second on two cores, no training, recall 1."""

FEW_ROWS = 2_000
"""Up to here also where `faiss` or `scann` is asked for: there are too few rows to cluster."""

MIN_ROWS_PER_LEAF = 39
"""Fewer training rows per k-means centroid than this and FAISS warns that the centroids are not to be trusted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexSpec:
    """What the user asks for; `resolve_spec` turns it into the parameters of one shard."""

    kind: IndexKind = "auto"
    """`exact`: all rows by matrix product (torch, on the GPU where there is one); `faiss`: inverted lists with 4-bit
    codes, then float16 vectors; `scann`: the like from ScaNN with float32 vectors, Linux only; `auto`: `faiss`, which
    at equal recall was no slower than ScaNN, half as large, memory-mapped and runs everywhere."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(IndexKind):
            raise UsageError(
                where="index spec",
                found=f"kind = {self.kind!r}",
                expected=f"one of {', '.join(get_args(IndexKind))}",
                action="Correct the index kind.",
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values, keys sorted."""
        return dict(sorted(asdict(self).items()))


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedSpec:
    """The parameters of one shard's index; with the embeddings it determines the index's bytes.

    `to_json` is what goes into digests and manifests. How the index is searched is no part of it:
    `realm_core.index.setting`.
    """

    kind: ResolvedKind
    """`flat`: all rows by FAISS's matrix product, what `faiss` and `scann` are for few rows."""
    num_leaves: int = 0
    """Clusters; 0 where all rows are compared."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, keys sorted."""
        return dict(sorted(asdict(self).items()))

    @classmethod
    def from_json(cls, values: dict[str, Any], *, where: str) -> ResolvedSpec:
        """The inverse of `to_json`; raises `ArtifactCorruptError` for fields that are not its own."""
        names = {field.name for field in fields(cls)}
        if set(values) != names or values["kind"] not in get_args(ResolvedKind):
            raise ArtifactCorruptError(
                where=where,
                found=f"index parameters {values}",
                expected=f"the fields {sorted(names)}, kind one of {', '.join(get_args(ResolvedKind))}",
                action="Build the index again with this version of the program.",
            )
        return cls(**values)


def resolve_spec(spec: IndexSpec, num_rows: int, platform: str = sys.platform) -> ResolvedSpec:
    """The parameters of an index over `num_rows` rows on `platform` (spelled as `sys.platform`).

    Raises `UsageError` where the kind does not exist on the platform: before anything is embedded.
    """
    if num_rows < 1:
        raise UsageError(
            where="index spec",
            found=f"{num_rows} rows",
            expected="at least one row per index shard",
            action="Ingest a corpus that yields blocks, or use fewer index shards.",
        )
    if spec.kind == "scann" and platform != "linux":
        raise scann_missing(f"platform {platform!r}")
    if spec.kind == "exact":
        return ResolvedSpec(kind="exact")
    if num_rows <= (FLAT_MAX_ROWS if spec.kind == "auto" else FEW_ROWS):
        return ResolvedSpec(kind="flat")
    return ResolvedSpec(kind="scann" if spec.kind == "scann" else "faiss", num_leaves=leaves_for(num_rows))


def resolve_leaves(kind: str, num_rows: int) -> int:
    """Clusters of a shard's index of that resolved kind; 0 where all rows are compared."""
    return leaves_for(num_rows) if kind in ("faiss", "scann") else 0


def leaves_for(num_rows: int) -> int:
    """About `4 * sqrt(rows)` clusters, a power of two: 4,096 for a million rows, 16,384 for all of Wikipedia.

    How many leaves must be looked into for a recall follows from the embeddings, hardly from the number of leaves, so
    that more of them means fewer rows read; training costs their square; docs/serving.md has figures.
    """
    wanted = round(math.log2(4 * math.sqrt(num_rows)))
    trainable = math.floor(math.log2(max(1.0, num_rows / (2 * MIN_ROWS_PER_LEAF))))
    return int(2 ** min(wanted, trainable))


def require_trainable(spec: ResolvedSpec, num_rows: int) -> None:
    """Raises `UsageError` where there are too few rows for as many clusters."""
    if not 1 <= spec.num_leaves <= num_rows // MIN_ROWS_PER_LEAF:
        raise UsageError(
            where=f"{spec.kind} index of {num_rows} rows",
            found=f"num_leaves = {spec.num_leaves}",
            expected=f"1 to {num_rows // MIN_ROWS_PER_LEAF}, at least {MIN_ROWS_PER_LEAF} rows for each",
            action="Let resolve_spec choose the parameters for this number of rows.",
        )


def scann_missing(found: str) -> UsageError:
    """The error of asking for ScaNN where it is not to be had."""
    return UsageError(
        where="index kind scann",
        found=found,
        expected="Linux with the scann package, which is not made for other systems",
        action="Use the index kind faiss, or on Linux: pip install scann.",
    )
