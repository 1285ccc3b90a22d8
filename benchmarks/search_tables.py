"""What `benchmarks.search` makes of its measurements: rates, latencies, ratios, tables."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.embed_tables import aligned, rounded
from benchmarks.search_indexes import SINGLE_INDEXES

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADLINE = "ours-4"
"""The number of shards of which the headline ratios are, where it was measured."""


@dataclass(kw_only=True, slots=True)
class Measured:
    """One side on one corpus."""

    side: str
    build_seconds: float
    build_peak_bytes: int
    index_bytes: int
    setting: dict[str, Any] = field(default_factory=dict)
    tuned_recall: float = 0.0
    first_rate: float = 0.0
    """Queries per second in batches with that setting, before the rounds."""
    recall: float = 0.0
    """At 5, on the test queries."""
    rates: list[float] = field(default_factory=list)
    """Queries per second in batches, by round."""
    milliseconds: list[float] = field(default_factory=list)
    """Of single queries."""
    search_peak_bytes: int = 0

    @property
    def rate(self) -> float:
        """The median round's."""
        return statistics.median(self.rates)

    def latency(self, percent: int) -> float:
        """So many percent of the single queries took no longer, in milliseconds."""
        return sorted(self.milliseconds)[min(len(self.milliseconds) - 1, len(self.milliseconds) * percent // 100)]


def rate_ratio(one: Measured, other: Measured) -> float:
    """Of queries per second, round by round, the median: what slows a round down slows both."""
    return statistics.median(a / b for a, b in zip(one.rates, other.rates, strict=True))


def best_single(sides: Mapping[str, Measured], target: float) -> Measured | None:
    """The peers' single index that is fastest before the rounds, of those that met the target; None without any."""
    singles = [sides[name] for name in SINGLE_INDEXES if name in sides]
    enough = [side for side in singles if side.tuned_recall >= target]
    return max(enough, key=lambda side: side.first_rate, default=None)


def table(sides: Mapping[str, Measured], best: Measured | None) -> str:
    """One line a side."""
    heads = (
        "side",
        "build s",
        "GB",
        "index GB",
        "searched with",
        "recall@5",
        "queries/s",
        "x ORQA",
        "x best single",
        "p50 ms",
        "p99 ms",
        "GB",
    )
    return aligned([heads, *(_cells(side, sides.get("orqa"), best) for side in sides.values())])


def summary(sides: Mapping[str, Measured], best: Measured | None) -> dict[str, Any]:
    """Of one corpus, for the last line; None where a side was not measured."""
    ours = {name: side for name, side in sides.items() if name.startswith("ours-")}
    headline = ours.get(HEADLINE) or next(iter(ours.values()), None)
    orqa = sides.get("orqa")
    return {
        "recall_at_5": rounded(headline.recall if headline else None),
        "qps_vs_orqa_setting": rounded(rate_ratio(headline, orqa) if headline and orqa else None),
        "qps_sharded_vs_single": rounded(rate_ratio(headline, best) if headline and best else None),
        "best_single": best.side if best else None,
        "recall_of_best_single": rounded(best.recall if best else None),
        "recall_of_orqa_setting": rounded(orqa.recall if orqa else None),
        "ours": {
            name: {
                "recall_at_5": rounded(side.recall),
                "qps": rounded(side.rate),
                "vs_orqa_setting": rounded(rate_ratio(side, orqa) if orqa else None),
                "vs_single": rounded(rate_ratio(side, best) if best else None),
                "build_seconds": rounded(side.build_seconds),
            }
            for name, side in ours.items()
        },
    }


def _cells(side: Measured, orqa: Measured | None, best: Measured | None) -> tuple[str, ...]:
    return (
        side.side,
        f"{side.build_seconds:.1f}",
        f"{side.build_peak_bytes / 1e9:.2f}",
        f"{side.index_bytes / 1e9:.2f}",
        setting_text(side.setting),
        f"{side.recall:.4f}",
        f"{side.rate:,.0f}",
        f"{rate_ratio(side, orqa):.2f}" if orqa else "-",
        f"{rate_ratio(side, best):.2f}" if best else "-",
        f"{side.latency(50):.2f}",
        f"{side.latency(99):.2f}",
        f"{side.search_peak_bytes / 1e9:.2f}",
    )


def setting_text(setting: Mapping[str, Any]) -> str:
    """Leaves or their share, and candidates reordered; a dash where there is nothing to set."""
    if not setting:
        return "-"
    leaves = f"{setting['num_leaves']}" if "num_leaves" in setting else f"1/{1 / setting['leaf_fraction']:.0f}"
    return f"{leaves} leaves, {setting['num_reordered']}"
