"""Approximate search by ScaNN: a tree of clusters, anisotropic 4-bit codes, then the float32 vectors of the best.

Relevances are inner products with the float32 vectors. Ties at the last hit are settled among the reordered only.
Its files are read into memory whole, and loading holds the interpreter lock: load in a process that serves nobody yet.
Linux only.

For the same embeddings to give the same bytes, ScaNN is told to spread the first centroids of a tree (k-means++), which
it otherwise draws at random, and to train on one thread: the sums of several differ from run to run. Shards are built
side by side, so that the other cores are not idle.

Its defaults, 100,000 training rows and centroids of any norm, fail where leaves are many: on a million clustered rows
and 4,096 leaves, 64 of them held 0.81 of the exact top 5 at best; with 64 training rows a leaf and centroids on a
sphere, as FAISS has them for inner products, 16 leaves hold 0.96. SOAR (lambda 1.5) then found 0.953 in 6 leaves at
43,300 queries/s, without it 0.958 was found in 16 at 38,600 to 46,400, with 10 % fewer bytes and 14 % less build time:
left out.

Shape letters: `B` queries, `K` hits, `D` projection, `R` rows, `N` candidates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from realm_core.index.building import ROWS_SAMPLED_PER_LEAF
from realm_core.index.description import SearcherDescription, corrupt_index, missing_file
from realm_core.index.leaves import search_leaves
from realm_core.index.searcher import MISSING_ROW, SearchHits, no_hits, require_searchable, validate_queries
from realm_core.index.setting import SearchSetting
from realm_core.index.specs import ResolvedSpec, require_trainable, scann_missing

ASSETS_NAME = "scann_assets.pbtxt"
_PICKLE_NAME = "scann_docids.pkl"
_DIMENSIONS_PER_CODE = 2
_ANISOTROPIC_THRESHOLD = 0.2
_MIN_PARALLEL_QUERIES = 64


class ScannSearcher:
    """Looks into the clusters nearest to a query."""

    def __init__(self, searcher: Any, description: SearcherDescription) -> None:  # noqa: ANN401 - ScaNN carries no types
        self._searcher = searcher
        self._description = description

    @classmethod
    def build(cls, embeddings_RD: np.ndarray, spec: ResolvedSpec) -> ScannSearcher:
        """Trains on a sample, as `faiss` is; same embeddings and spec, same bytes."""
        require_searchable(embeddings_RD, where="scann index build")
        num_rows, dimension = embeddings_RD.shape
        require_trainable(spec, num_rows)
        builder = _scann().builder(np.ascontiguousarray(embeddings_RD), 1, "dot_product")
        builder = builder.tree(
            spec.num_leaves,
            num_leaves_to_search=1,
            training_sample_size=min(num_rows, ROWS_SAMPLED_PER_LEAF * spec.num_leaves),
            spherical=True,
            random_init=False,
        )
        builder = builder.score_ah(_DIMENSIONS_PER_CODE, anisotropic_quantization_threshold=_ANISOTROPIC_THRESHOLD)
        builder = builder.set_n_training_threads(1).reorder(1)  # each search says how much it looks into
        searcher = builder.build()
        return cls(searcher, SearcherDescription(spec=spec, num_rows=num_rows, dimension=dimension))

    @classmethod
    def load(cls, directory: Path) -> ScannSearcher:
        """Reads all files into memory."""
        description = SearcherDescription.read(directory)
        _require_plain_files(directory)
        try:
            searcher = _scann().load_searcher(str(directory), assets_backcompat_shim=False)
        except (ValueError, RuntimeError) as error:
            raise corrupt_index(directory, str(error), "the whole files of a ScaNN searcher") from error
        description.require_shape(searcher.size(), description.dimension, directory)
        return cls(searcher, description)

    @property
    def num_rows(self) -> int:
        """`R`."""
        return self._description.num_rows

    @property
    def dimension(self) -> int:
        """`D`."""
        return self._description.dimension

    @property
    def num_leaves(self) -> int:
        """Clusters of rows."""
        return self._description.spec.num_leaves

    def search(self, queries_BD: np.ndarray, num_hits: int, setting: SearchSetting | None = None) -> SearchHits:
        """The top `num_hits` of the clusters looked into."""
        queries_BD = validate_queries(queries_BD, dimension=self.dimension, num_hits=num_hits)
        if not len(queries_BD):
            return no_hits(0, num_hits)
        return search_leaves(self, queries_BD, num_hits, setting)

    def save(self, directory: Path) -> None:
        """Writes ScaNN's own files, whose paths are relative, and `searcher.json`."""
        self._description.write(directory)
        self._searcher.serialize(str(directory), relative_path=True)

    def look_into_leaves(
        self, queries_BD: np.ndarray, num_best: int, *, num_reordered: int, num_leaves: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Relevances and rows of the best in the nearest leaves."""
        in_parallel = len(queries_BD) >= _MIN_PARALLEL_QUERIES
        search = self._searcher.search_batched_parallel if in_parallel else self._searcher.search_batched
        rows_BN, relevances_BN = search(queries_BD, num_best, num_reordered, num_leaves)
        # ScaNN pads with row 0 and a relevance of NaN.
        return relevances_BN, np.where(np.isnan(relevances_BN), MISSING_ROW, rows_BN.astype(np.int64))

    def look_everywhere(self, queries_BD: np.ndarray, num_best: int) -> tuple[np.ndarray, np.ndarray]:
        """Looks into all leaves."""
        return self.look_into_leaves(queries_BD, num_best, num_reordered=num_best, num_leaves=self.num_leaves)


def _require_plain_files(directory: Path) -> None:
    if not (directory / ASSETS_NAME).is_file():
        raise missing_file(directory / ASSETS_NAME)
    pickled = directory / _PICKLE_NAME
    if pickled.exists():
        # ScaNN's loader would unpickle it.
        raise corrupt_index(pickled, "a pickle file", "an index directory without pickles")


def _scann() -> Any:  # noqa: ANN401 - ScaNN carries no types
    try:
        from scann.scann_ops.py import scann_ops_pybind
    except ImportError as error:
        raise scann_missing(str(error)) from error
    return scann_ops_pybind
