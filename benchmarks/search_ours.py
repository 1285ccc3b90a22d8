"""Our own side of `benchmarks.search`: shards built, tuned, searched and merged by the project's own code.

Shape letters: `B` queries, `K` hits, `D` projection, `R` rows.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.search_corpus import load_exact_rows, load_queries, load_vectors
from realm_core.index.build import load_searcher
from realm_core.index.building import index_builder, sample_rows
from realm_core.index.description import SearcherDescription
from realm_core.index.searcher import SearchHits
from realm_core.index.setting import SearchSetting
from realm_core.index.shards import with_block_ids
from realm_core.index.side_by_side import ShardsSideBySide
from realm_core.index.specs import IndexSpec, resolve_spec
from realm_core.index.tuning import (
    SettingMeasurement,
    choose,
    curve,
    first_settings,
    has_leaves,
    last_settings,
    measure,
)
from realm_core.storage.block_store import ROWS_PER_PART
from realm_core.storage.snapshots import ShardEntry

if TYPE_CHECKING:
    from pathlib import Path

    from realm_core.index.searcher import Searcher

SPEC = IndexSpec(kind="faiss")
"""Not `auto`, which compares all rows where there are few: the sides are compared at equal recall."""


@dataclass
class RowShard:
    """Consecutive rows; what `ShardsSideBySide` takes, without a store."""

    searcher: Searcher
    first_row: int
    kind: str
    setting: SearchSetting | None = None

    def search(self, queries_BD: np.ndarray, num_hits: int) -> SearchHits:
        """Hits by row of the corpus."""
        return with_block_ids(self.searcher.search(queries_BD, num_hits, self.setting), self.first_row)


@dataclass
class OurShards:
    """All rows in so many shards."""

    num_shards: int

    def build(self, folder: Path) -> None:
        """One shard after the other, from batches of a part's size."""
        vectors_RD = load_vectors(folder.parent)
        for start, stop in row_ranges(len(vectors_RD), self.num_shards):
            own_RD = vectors_RD[start:stop]
            spec = resolve_spec(SPEC, len(own_RD))
            shard_folder = folder / f"{start:09d}"
            shard_folder.mkdir()
            builder = index_builder(
                spec,
                num_rows=len(own_RD),
                dimension=own_RD.shape[1],
                sample_RD=own_RD[sample_rows(spec, len(own_RD))],
                folder=shard_folder,
            )
            for first in range(0, len(own_RD), ROWS_PER_PART):
                builder.add(np.array(own_RD[first : first + ROWS_PER_PART]))
            builder.finish()

    def load(self, folder: Path, _num_threads: int) -> None:
        """Mapped."""
        self._folder = folder
        self._shards = [
            RowShard(load_searcher(path), int(path.name), SearcherDescription.read(path).spec.kind)
            for path in sorted(path for path in folder.iterdir() if path.is_dir())
        ]
        self._all = ShardsSideBySide(self._shards)  # type: ignore[arg-type]  # they search as shards of a store do

    def settings(self) -> list[dict[str, Any]]:
        """Of the first grid that `realm index` tries."""
        return [setting.to_json() for setting in first_settings(self._entries())]

    def search(self, queries_BD: np.ndarray, num_hits: int, setting: dict[str, Any]) -> np.ndarray:
        """All shards side by side, merged."""
        for shard in self._shards:
            shard.setting = SearchSetting(**setting) if setting else None
        return self._all.search(queries_BD, num_hits).rows_BK

    def tune(self, target_recall: float) -> dict[str, Any]:
        """What `realm index` would choose for the target; the best there is where nothing meets it."""
        queries_BD = load_queries(self._folder.parent, "tuning")
        rows_BK = load_exact_rows(self._folder.parent, "tuning")
        exact = SearchHits(np.zeros(rows_BK.shape, dtype=np.float32), rows_BK)
        points: list[SettingMeasurement] = []
        for settings in (first_settings(self._entries()), last_settings(self._entries())):
            if settings and choose(points, target_recall) is None:
                measured = [list(measure(shard, queries_BD, exact, settings)) for shard in self._shards]
                points += curve(measured, self._entries(), exact)
        chosen = choose(points, target_recall) or max(points, key=lambda point: point.recall_at_5)
        setting = chosen.setting.to_json() if has_leaves(self._entries()) else {}
        return {"setting": setting, "recall": chosen.recall_at_5}

    def _entries(self) -> list[ShardEntry]:
        return [
            ShardEntry(
                digest="",
                num_rows=shard.searcher.num_rows,
                first_block_id=shard.first_row,
                kind=shard.kind,
                num_bytes=0,
            )
            for shard in self._shards
        ]


def row_ranges(num_rows: int, num_shards: int) -> list[tuple[int, int]]:
    """Where shards of about as many rows each begin and end."""
    bounds = [num_rows * number // num_shards for number in range(num_shards + 1)]
    return list(itertools.pairwise(bounds))
