"""The promotion gate: what must hold before a snapshot goes live.

Shape letters: `B` queries, `K` hits, `D` projection, `R` rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from realm_core.errors import GateError
from realm_core.index.flat import exact_top_k
from realm_core.index.searcher import SearchHits, require_searchable

__all__ = ["GateCheck", "GateReport", "check_embeddings", "exact_top_k", "measure_recall"]

Fact = str | int | float
"""What a check found or expected."""

_ROWS_PER_CHECK = 65_536


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One thing that was looked at."""

    name: str
    found: Fact
    expected: Fact
    passed: bool


@dataclass(slots=True)
class GateReport:
    """All checks of one snapshot, for its manifest."""

    checks: list[GateCheck] = field(default_factory=list)

    def check(self, name: str, *, found: Fact, expected: Fact, passed: bool) -> None:
        """Adds one check."""
        self.checks.append(GateCheck(name, found, expected, bool(passed)))

    @property
    def passed(self) -> bool:
        """True when every check passed."""
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain values, the checks in the order they were made."""
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> GateReport:
        """The inverse of `to_json`."""
        return cls([GateCheck(**check) for check in values["checks"]])

    def raise_if_failed(self, where: str) -> None:
        """Raises `GateError` that names every check that failed."""
        failed = [check for check in self.checks if not check.passed]
        if failed:
            raise GateError(
                where=where,
                found="; ".join(f"{check.name} = {check.found}" for check in failed),
                expected="; ".join(f"{check.name} {check.expected}" for check in failed),
                action="The snapshot stays unpublished and the live one goes on. For recall, lower --target-recall or "
                "index with --kind exact; for rows, uids or values, embed the named parts again.",
            )


def check_embeddings(embeddings_RD: np.ndarray, *, where: str, dimension: int | None = None) -> None:
    """Raises `GateError` unless float32 `[R, D]`, of width `dimension` where given, every row finite and not zero."""
    require_searchable(embeddings_RD, where=where)
    if dimension is not None and embeddings_RD.shape[1] != dimension:
        raise GateError(
            where=where,
            found=f"embeddings of {embeddings_RD.shape[1]} dimensions",
            expected=f"{dimension}, the projection size of the snapshot's encoder",
            action="Embed the part with the encoder of this snapshot.",
        )
    for start in range(0, len(embeddings_RD), _ROWS_PER_CHECK):
        zero_rows = np.flatnonzero(~embeddings_RD[start : start + _ROWS_PER_CHECK].any(axis=1))
        if zero_rows.size:
            raise GateError(
                where=where,
                found=f"all zeros in the embedding of row {start + zero_rows[0]}",
                expected="a vector for every block",
                action="The row was never filled: remove the embedding file and embed the part again.",
            )


def measure_recall(approximate: SearchHits, exact: SearchHits, *, at: Sequence[int] = (1, 5, 10)) -> dict[int, float]:
    """Recall at each k of `at` (1 to `K`): the share of the exact top k that is in the approximate top k.

    By row: of blocks with equal embeddings, the one that ties exclude counts as a miss.
    """
    if approximate.rows_BK.shape != exact.rows_BK.shape or not exact.num_queries or max(at) > exact.num_hits:
        raise GateError(
            where="recall measurement",
            found=f"approximate hits {list(approximate.rows_BK.shape)}, exact hits {list(exact.rows_BK.shape)}",
            expected=f"hits of the same queries, at least one, and {max(at)} hits or more for each",
            action="Search the index and the embeddings with the same sampled queries and num_hits.",
        )
    return {k: _recall_at(k, approximate.rows_BK, exact.rows_BK) for k in at}


def _recall_at(k: int, approximate_BK: np.ndarray, exact_BK: np.ndarray) -> float:
    wanted_BK = exact_BK[:, :k] >= 0
    found_BK = (exact_BK[:, :k, None] == approximate_BK[:, None, :k]).any(axis=2)
    return float((found_BK & wanted_BK).sum() / wanted_BK.sum())
