"""Building an index from embeddings that come batch by batch, so that a shard's float32 vectors are never in memory.

`faiss` trains on a sample and adds batches; `exact` and `flat` write batches to the file that they will map; `scann`
alone takes all vectors at once. The bytes of an index do not depend on how its rows were divided into batches.

Shape letters: `D` projection, `R` rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from realm_core.index.build import build_searcher
from realm_core.index.description import SearcherDescription
from realm_core.index.searcher import require_searchable
from realm_core.index.vectors import VECTORS_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from realm_core.index.specs import ResolvedSpec

ROWS_SAMPLED_PER_LEAF = 64
"""Training rows per k-means centroid; FAISS asks for 39. More cost time in proportion: see docs/performance.md."""


class IndexBuilder(Protocol):
    """Takes all rows of a shard in order, then writes the files that `load_searcher` reads."""

    def add(self, embeddings_RD: np.ndarray) -> None:
        """The next rows, float32 `[R, D]`."""

    def finish(self) -> None:
        """Writes what is not written yet."""


def sample_rows(spec: ResolvedSpec, num_rows: int) -> np.ndarray:
    """Row numbers, rising, that the index trains on: evenly spread; none where nothing is trained."""
    if spec.kind != "faiss":
        return np.empty(0, dtype=np.int64)
    num_sampled = min(num_rows, ROWS_SAMPLED_PER_LEAF * spec.num_leaves)
    return np.arange(num_sampled, dtype=np.int64) * num_rows // num_sampled


def index_builder(
    spec: ResolvedSpec, *, num_rows: int, dimension: int, sample_RD: np.ndarray, folder: Path
) -> IndexBuilder:
    """The builder of the kind that the spec names; `sample_RD` are the rows of `sample_rows`."""
    if spec.kind == "faiss":
        from realm_core.index.faiss_index import FaissBuilder

        return FaissBuilder(spec, num_rows=num_rows, sample_RD=sample_RD, folder=folder)
    description = SearcherDescription(spec=spec, num_rows=num_rows, dimension=dimension)
    return _WholeBuilder(description, folder) if spec.kind == "scann" else _VectorsBuilder(description, folder)


class _VectorsBuilder:
    """Writes the vectors themselves."""

    def __init__(self, description: SearcherDescription, folder: Path) -> None:
        description.write(folder)
        shape = (description.num_rows, description.dimension)
        self._path = folder / VECTORS_NAME
        with self._path.open("wb") as file:  # not mapped: a full disk would end the process by a signal
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)

    def add(self, embeddings_RD: np.ndarray) -> None:
        require_searchable(embeddings_RD, where="index build")
        with self._path.open("ab") as file:
            file.write(np.ascontiguousarray(embeddings_RD, dtype="<f4").data)

    def finish(self) -> None:
        """All is written."""


class _WholeBuilder:
    """Keeps all rows until the end."""

    def __init__(self, description: SearcherDescription, folder: Path) -> None:
        self._spec = description.spec
        self._folder = folder
        self._embeddings_RD = np.empty((description.num_rows, description.dimension), dtype=np.float32)
        self._num_added = 0

    def add(self, embeddings_RD: np.ndarray) -> None:
        self._embeddings_RD[self._num_added : self._num_added + len(embeddings_RD)] = embeddings_RD
        self._num_added += len(embeddings_RD)

    def finish(self) -> None:
        build_searcher(self._embeddings_RD, self._spec).save(self._folder)
