"""The sides of `benchmarks.search`: exact search, FAISS and ScaNN as their users use them, and ours in shards.

Shape letters: `B` queries, `K` hits, `D` projection, `R` rows.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np

from benchmarks.search_corpus import load_vectors
from benchmarks.search_ours import OurShards
from realm_core.index.specs import leaves_for

Setting = dict[str, Any]
"""How thoroughly a side searches, as JSON; empty where there is nothing to set."""

NUMS_REORDERED = (20, 32, 64, 128, 256)
SINGLE_INDEXES = ("faiss-sqrt", "faiss-4sqrt", "scann")
"""The peers' ways to have all rows in one index; the best of them is what shards are held against."""
ORQA_LEAVES, ORQA_LEAVES_SEARCHED, ORQA_SAMPLE = 1_000, 100, 100_000
MIN_PARALLEL_QUERIES = 64


class Side(Protocol):
    """An index of one kind; `build` and the rest run in processes of their own."""

    def build(self, folder: Path) -> None:
        """Reads the embeddings in the folder's parent, and saves the index in the folder."""

    def load(self, folder: Path, num_threads: int, /) -> None:
        """What `build` saved."""

    def settings(self) -> list[Setting]:
        """What there is to choose from."""

    def search(self, queries_BD: np.ndarray, num_hits: int, setting: Setting, /) -> np.ndarray:
        """Rows `[B, K]`, best first."""


@dataclass
class Exact:
    """`faiss.knn`: all rows, by blocked matrix products."""

    def build(self, folder: Path) -> None:
        """Nothing to do."""

    def load(self, folder: Path, _num_threads: int) -> None:
        """The embeddings, into memory."""
        self._vectors_RD = np.array(load_vectors(folder.parent))

    def settings(self) -> list[Setting]:
        """Nothing to set."""
        return [{}]

    def search(self, queries_BD: np.ndarray, num_hits: int, _setting: Setting) -> np.ndarray:
        """The exact hits."""
        rows_BK: np.ndarray = faiss.knn(queries_BD, self._vectors_RD, num_hits, metric=faiss.METRIC_INNER_PRODUCT)[1]
        return rows_BK


@dataclass
class Faiss:
    """One index by FAISS's factory, with its own defaults of training, loaded into memory."""

    num_leaves: int

    def build(self, folder: Path) -> None:
        """`IVF…,PQ…x4fs,Refine(SQfp16)`."""
        vectors_RD = np.array(load_vectors(folder.parent))
        factory = f"IVF{self.num_leaves},PQ{vectors_RD.shape[1] // 2}x4fs,Refine(SQfp16)"
        index = faiss.index_factory(vectors_RD.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors_RD)
        index.add(vectors_RD)
        faiss.write_index(index, str(folder / "index.faiss"))

    def load(self, folder: Path, _num_threads: int) -> None:
        """Into memory."""
        self._index = faiss.read_index(str(folder / "index.faiss"))

    def settings(self) -> list[Setting]:
        """Leaves searched, candidates reordered."""
        return _grid(self.num_leaves)

    def search(self, queries_BD: np.ndarray, num_hits: int, setting: Setting) -> np.ndarray:
        """FAISS's own batched search."""
        parameters = faiss.IndexRefineSearchParameters(
            k_factor=setting["num_reordered"] / num_hits,
            base_index_params=faiss.IVFSearchParameters(nprobe=setting["num_leaves"]),
        )
        rows_BK: np.ndarray = self._index.search(queries_BD, num_hits, params=parameters)[1]
        return rows_BK


@dataclass
class Scann:
    """One index by ScaNN with what its authors recommend: sqrt(rows) leaves, anisotropic codes, reordering."""

    num_leaves: int

    def build(self, folder: Path) -> None:
        """`tree`, `score_ah(2, 0.2)`, `reorder`."""
        builder = _scann().builder(load_vectors(folder.parent), 10, "dot_product")
        tree = builder.tree(self.num_leaves, num_leaves_to_search=1)
        tree.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(1).build().serialize(str(folder))

    def load(self, folder: Path, num_threads: int) -> None:
        """Into memory, as ScaNN does."""
        self._searcher = _scann().load_searcher(str(folder))
        self._searcher.set_num_threads(num_threads)

    def settings(self) -> list[Setting]:
        """Leaves searched, candidates reordered."""
        return _grid(self.num_leaves)

    def search(self, queries_BD: np.ndarray, num_hits: int, setting: Setting) -> np.ndarray:
        """In parallel where there are queries enough for it to pay."""
        in_parallel = len(queries_BD) >= MIN_PARALLEL_QUERIES
        search = self._searcher.search_batched_parallel if in_parallel else self._searcher.search_batched
        rows_BK: np.ndarray = search(queries_BD, num_hits, setting["num_reordered"], setting["num_leaves"])[0]
        return rows_BK.astype(np.int64)


class Orqa(Scann):
    """ScaNN as ORQA and transformers ship it: 1,000 leaves, 100 searched, no reordering."""

    def build(self, folder: Path) -> None:
        """`tree(1000, 100, training_sample_size=100000)`, `score_ah(2)`."""
        builder = _scann().builder(load_vectors(folder.parent), 5, "dot_product")
        tree = builder.tree(ORQA_LEAVES, num_leaves_to_search=ORQA_LEAVES_SEARCHED, training_sample_size=ORQA_SAMPLE)
        tree.score_ah(dimensions_per_block=2).build().serialize(str(folder))

    def settings(self) -> list[Setting]:
        """None but what is shipped."""
        return [{}]

    def search(self, queries_BD: np.ndarray, num_hits: int, _setting: Setting) -> np.ndarray:
        """With the settings that the index was built with."""
        in_parallel = len(queries_BD) >= MIN_PARALLEL_QUERIES
        search = self._searcher.search_batched_parallel if in_parallel else self._searcher.search_batched
        rows_BK: np.ndarray = search(queries_BD, num_hits)[0]
        return rows_BK.astype(np.int64)


SIDES: dict[str, Callable[[int], Side]] = {
    "exact": lambda _: Exact(),
    "faiss-sqrt": lambda num_rows: Faiss(round(math.sqrt(num_rows))),
    "faiss-4sqrt": lambda num_rows: Faiss(leaves_for(num_rows)),
    "scann": lambda num_rows: Scann(round(math.sqrt(num_rows))),
    "orqa": lambda _: Orqa(ORQA_LEAVES),
    "ours-1": lambda _: OurShards(1),
    "ours-4": lambda _: OurShards(4),
    "ours-16": lambda _: OurShards(16),
}


def why_not(name: str) -> str | None:
    """Why a side cannot be measured here."""
    if name in ("scann", "orqa") and importlib.util.find_spec("scann") is None:
        return "no package scann, which is made for Linux only"
    return None


def _grid(num_leaves: int) -> list[Setting]:
    most = math.ceil(2 * math.log2(num_leaves))
    counts = sorted({min(num_leaves, round(2 ** (n / 2))) for n in range(most + 1)})
    return [{"num_leaves": count, "num_reordered": reordered} for count in counts for reordered in NUMS_REORDERED]


def _scann() -> Any:  # noqa: ANN401 - ScaNN carries no types
    from scann.scann_ops.py import scann_ops_pybind

    return scann_ops_pybind
