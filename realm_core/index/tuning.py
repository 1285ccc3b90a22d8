"""Choosing how an index is searched: the cheapest setting that finds enough of what exact search finds.

Settings are measured on sampled queries, chosen by a model of their cost: a choice by measured seconds would differ
from run to run, and with it the name of the snapshot.

Shape letters: `B` queries, `K` hits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from realm_core.errors import GateError
from realm_core.index.setting import DEFAULT_SETTING, SearchSetting
from realm_core.index.specs import resolve_leaves

if TYPE_CHECKING:
    from realm_core.index.searcher import SearchHits
    from realm_core.storage.snapshots import ShardEntry

RECALL_AT = (1, 5, 10)
TARGET_AT = 5
"""The target is of recall@5: a reader reads about as many blocks."""

NOT_FOUND = 255
"""Stands for the place of an exact hit that was not found."""

NUMS_REORDERED = (13, 16, 20, 26, 32, 48, 64, 128, 256)
FIRST_FRACTIONS = tuple(2.0 ** (-n / 2) for n in range(24, 5, -1))
"""1/4096 to 1/8 of the leaves, half as much again each time."""
LAST_FRACTIONS = (2**-2.5, 1 / 4, 2**-1.5, 1 / 2, 2**-0.5, 1.0)
"""Tried only where no other is enough: they cost more than all others together."""

_NANOSECONDS_PER_LEAF = 3.0
_NANOSECONDS_PER_ROW = 1.5
_NANOSECONDS_PER_REORDERED = 150.0
"""Comparing a centroid, reading a row's codes, fetching a vector from memory: one core, 128 dimensions, in batches."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ShardMeasurement:
    """Where one shard, searched with one setting, finds what it should.

    It can be made before the other shards are there: of the snapshot's exact hits, those in a shard are among the
    shard's own exact hits. Which of these they are is asked when all shards are there, by `num_found`.
    """

    setting: SearchSetting
    exact: SearchHits
    """The exact hits to look for: the shard's own, or the snapshot's."""
    ranks_BK: np.ndarray
    """uint8: the place, from 0, at which each of the exact hits was found; `NOT_FOUND` for one that was not."""
    seconds: float

    def num_found(self, exact: SearchHits) -> tuple[int, ...]:
        """For each k of `RECALL_AT`: how many of the snapshot's exact top k are among the top k that it found.

        A shard's hit that belongs to the snapshot's top k is in the merged top k if it was found at all, so the sum
        over shards is what the merged lists would give.
        """
        return tuple(int((_is_among(self.exact, exact, k) & (self.ranks_BK < k)).sum()) for k in RECALL_AT)

    @property
    def own_recall(self) -> float:
        """Recall@5 of the exact hits to look for, as if there were no other shard."""
        num_wanted = int((self.exact.rows_BK[:, :TARGET_AT] >= 0).sum())
        return self.num_found(self.exact)[RECALL_AT.index(TARGET_AT)] / max(1, num_wanted)


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingMeasurement:
    """What all shards found with one setting."""

    leaf_fraction: float
    num_reordered: int
    recall_at_1: float
    recall_at_5: float
    recall_at_10: float
    cost_microseconds: float
    """Of one query on one core, by the model."""
    queries_per_second_per_core: float
    """Measured, in one batch of all sampled queries."""

    @property
    def setting(self) -> SearchSetting:
        """What was measured."""
        return SearchSetting(leaf_fraction=self.leaf_fraction, num_reordered=self.num_reordered)

    def to_json(self) -> dict[str, Any]:
        """For the snapshot's manifest."""
        return asdict(self)


class TunableSearcher(Protocol):
    """One shard; hits carry the ids of the exact ones."""

    setting: SearchSetting | None

    def search(self, queries_BD: np.ndarray, num_hits: int) -> SearchHits:
        """With `setting`."""


def first_settings(shards: Sequence[ShardEntry]) -> list[SearchSetting]:
    """The settings to measure at first, the cheapest first; one where all shards compare all rows."""
    if not has_leaves(shards):
        return [DEFAULT_SETTING]
    most_leaves = max(resolve_leaves(shard.kind, shard.num_rows) for shard in shards)
    fractions = [fraction for fraction in FIRST_FRACTIONS if fraction * most_leaves >= 1]
    return _grid(fractions, shards)


def last_settings(shards: Sequence[ShardEntry]) -> list[SearchSetting]:
    """The settings to measure where none of the first is enough, the cheapest first."""
    return _grid(LAST_FRACTIONS, shards) if has_leaves(shards) else []


def has_leaves(shards: Iterable[ShardEntry]) -> bool:
    """True where there is something to set."""
    return any(shard.kind in ("faiss", "scann") for shard in shards)


def ranks_of(exact: SearchHits, approximate: SearchHits) -> np.ndarray:
    """uint8 [B, K]: the place, from 0, of each exact hit among the approximate ones; `NOT_FOUND` where it is not."""
    is_same_BKN = (exact.rows_BK[:, :, None] == approximate.rows_BK[:, None, :]) & (exact.rows_BK[:, :, None] >= 0)
    return np.where(is_same_BKN.any(axis=2), is_same_BKN.argmax(axis=2), NOT_FOUND).astype(np.uint8)


def _is_among(hits: SearchHits, exact: SearchHits, k: int) -> np.ndarray:
    """bool [B, K]: True for hits that are among the exact top k."""
    is_same_BKN = (hits.rows_BK[:, :, None] == exact.rows_BK[:, None, :k]) & (hits.rows_BK[:, :, None] >= 0)
    is_among_BK: np.ndarray = is_same_BKN.any(axis=2)
    return is_among_BK


def measure(
    searcher: TunableSearcher, queries_BD: np.ndarray, exact: SearchHits, settings: Sequence[SearchSetting]
) -> Iterator[ShardMeasurement]:
    """Where one shard finds exact hits, its own or the snapshot's, and how long it takes, one setting after another."""
    num_hits = max(RECALL_AT)
    searcher.search(queries_BD, num_hits)  # brings the mapped pages in
    for setting in settings:
        searcher.setting = setting
        started = time.perf_counter()
        hits = searcher.search(queries_BD, num_hits)
        seconds = time.perf_counter() - started
        ranks_BK = ranks_of(exact, hits)
        yield ShardMeasurement(setting=setting, exact=exact, ranks_BK=ranks_BK, seconds=seconds)


def curve(
    measurements: Sequence[Sequence[ShardMeasurement]], shards: Sequence[ShardEntry], exact: SearchHits
) -> list[SettingMeasurement]:
    """One point per setting; `measurements` holds, for each shard, one per setting, all in the same order.

    `exact` are the snapshot's exact hits.
    """
    num_wanted = [max(1, int((exact.rows_BK[:, :k] >= 0).sum())) for k in RECALL_AT]
    points = []
    for of_setting in zip(*measurements, strict=True):
        setting = of_setting[0].setting
        found = np.sum([measured.num_found(exact) for measured in of_setting], axis=0)
        recall = [int(count) / wanted for count, wanted in zip(found, num_wanted, strict=True)]
        seconds = sum(measured.seconds for measured in of_setting)
        points.append(
            SettingMeasurement(
                leaf_fraction=setting.leaf_fraction,
                num_reordered=setting.num_reordered,
                recall_at_1=recall[0],
                recall_at_5=recall[1],
                recall_at_10=recall[2],
                cost_microseconds=sum(cost_microseconds(setting, shard) for shard in shards),
                queries_per_second_per_core=exact.num_queries / max(seconds, 1e-9),
            )
        )
    return points


def tune(
    measured: Sequence[Sequence[ShardMeasurement]],
    settings: Sequence[SearchSetting],
    shards: Sequence[ShardEntry],
    exact: SearchHits,
    *,
    target_recall: float,
    measure_more: Callable[[Sequence[SearchSetting]], Sequence[Sequence[ShardMeasurement]]],
) -> list[SettingMeasurement]:
    """The measured curve, from the cheapest setting on; costlier ones only where those before find too little.

    `choose` finds in it what it would find had all settings been measured: those that were not cost more.

    Args:
        measured: for each shard, of the `first_settings` those up to the one with which it found enough.
        settings: the `first_settings`.
        shards: all of the snapshot.
        exact: the snapshot's exact hits.
        target_recall: of the snapshot.
        measure_more: all shards, with these settings.
    """
    by_all, by_any = min(map(len, measured)), max(map(len, measured))
    points = curve([of_shard[:by_all] for of_shard in measured], shards, exact)
    for more in (settings[by_all:by_any], settings[by_any:], last_settings(shards)):
        if more and choose(points, target_recall) is None:
            points += curve(measure_more(more), shards, exact)
    return points


def choose(points: Sequence[SettingMeasurement], target_recall: float) -> SettingMeasurement | None:
    """The cheapest point that meets the target; None where none does."""
    enough = [point for point in points if point.recall_at_5 >= target_recall]
    return min(enough, key=lambda point: (point.cost_microseconds, point.num_reordered), default=None)


def enough_for_a_shard(target_recall: float) -> float:
    """The `own_recall` from which on a shard measures no costlier setting: half of what the target lets go missing.

    Of the snapshot's best hits a shard finds more than of its own, which are farther from the query; where that is not
    so, the costlier settings are measured when all shards are there.
    """
    return (1 + target_recall) / 2


def require_choice(points: Sequence[SettingMeasurement], target_recall: float, *, where: str) -> SettingMeasurement:
    """`choose`, or a `GateError` that says how near the best setting came."""
    chosen = choose(points, target_recall)
    if chosen is None:
        best = max(points, key=lambda point: point.recall_at_5)
        raise GateError(
            where=where,
            found=f"recall@5 of {best.recall_at_5:.4f} at best, with {best.setting.to_json()}",
            expected=f"at least {target_recall}, the target recall",
            action="Lower --target-recall, or index with --kind exact, which finds all. The live snapshot goes on.",
        )
    return chosen


def cost_microseconds(setting: SearchSetting, shard: ShardEntry) -> float:
    """Of one query in one shard, by the model."""
    num_leaves = resolve_leaves(shard.kind, shard.num_rows)
    if not num_leaves:
        return _NANOSECONDS_PER_ROW * 4 * shard.num_rows / 1e3
    fraction = setting.leaves_for(num_leaves, max(RECALL_AT), shard.num_rows) / num_leaves
    nanoseconds = (
        _NANOSECONDS_PER_LEAF * num_leaves
        + _NANOSECONDS_PER_ROW * fraction * shard.num_rows
        + _NANOSECONDS_PER_REORDERED * setting.reordered_for(max(RECALL_AT), shard.num_rows)
    )
    return nanoseconds / 1e3


def _grid(fractions: Iterable[float], shards: Sequence[ShardEntry]) -> list[SearchSetting]:
    settings = [
        SearchSetting(leaf_fraction=fraction, num_reordered=num_reordered)
        for fraction in fractions
        for num_reordered in NUMS_REORDERED
    ]
    return sorted(
        settings,
        key=lambda setting: (sum(cost_microseconds(setting, shard) for shard in shards), setting.num_reordered),
    )
