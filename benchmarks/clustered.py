"""Clustered synthetic embeddings: the same rows from the same seed, any range of them without the others.

    centre of cluster c:  C[c] ~ Normal(0, 1), D values
    row r:                C[c(r)] + noise * Normal(0, 1),  c(r) uniform
    query q:              C[c(q)] + noise * Normal(0, 1),  from clusters that rows are in

A query's best rows are those of its cluster that lie furthest in its own and the centre's direction: about 220
near-equals. Where there are fewer leaves than clusters, several clusters share a leaf. So neither few leaves nor few
reordered candidates will do. Rows come in chunks, each from a generator of its own, seeded by `[seed, chunk]`.

Shape letters: `B` queries, `C` clusters, `D` projection, `R` rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

ROWS_PER_CHUNK = 16_384
"""As many as a part has."""
ROWS_PER_CLUSTER = 222.562
"""13,353,718 rows are 60,000 clusters."""
NOISE = 0.75
"""Standard deviation, where that of the centres is 1. FAISS's `IVF1000,PQ64x4fs,Refine(SQfp16)` then finds 0.98 of the
exact top 5 of 1,000,000 rows, with 6 leaves searched and 100 candidates reordered."""

_CENTRES, _ROWS, _QUERIES = range(3)


@dataclass(frozen=True, kw_only=True)
class ClusteredEmbeddings:
    """A corpus that is computed, not stored."""

    num_rows: int
    dimension: int = 128
    num_clusters: int = 0
    """Left out: one for `ROWS_PER_CLUSTER` rows."""
    noise: float = NOISE
    seed: int = 0

    @cached_property
    def centres(self) -> np.ndarray:
        """Float32 `[C, D]`."""
        num_clusters = self.num_clusters or max(1, round(self.num_rows / ROWS_PER_CLUSTER))
        return self._generator(_CENTRES).standard_normal((num_clusters, self.dimension), dtype=np.float32)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Float32 `[stop - start, D]`; the same values whatever range they are part of."""
        if not 0 <= start <= stop <= self.num_rows:
            raise ValueError(f"rows {start} to {stop} of {self.num_rows}")
        rows_RD = np.empty((stop - start, self.dimension), dtype=np.float32)
        for chunk in range(start // ROWS_PER_CHUNK, -(-stop // ROWS_PER_CHUNK)):
            first = chunk * ROWS_PER_CHUNK
            begin, end = max(start, first), min(stop, first + ROWS_PER_CHUNK)
            rows_RD[begin - start : end - start] = self._chunk(chunk)[begin - first : end - first]
        return rows_RD

    def near(self, rows_R: np.ndarray, noise_RD: np.ndarray) -> np.ndarray:
        """Float32 `[R, D]`: queries of these rows' clusters, each with the given noise; without making the rows."""
        clusters_R = np.empty(len(rows_R), dtype=np.int64)
        for chunk in np.unique(rows_R // ROWS_PER_CHUNK).tolist():
            is_here_R = rows_R // ROWS_PER_CHUNK == chunk
            clusters = self._clusters(self._generator(_ROWS, chunk), self._rows_of_chunk(chunk))
            clusters_R[is_here_R] = clusters[rows_R[is_here_R] - chunk * ROWS_PER_CHUNK]
        return self.centres[clusters_R] + np.float32(self.noise) * noise_RD

    def queries(self, num_queries: int) -> np.ndarray:
        """Float32 `[B, D]`; the first of more queries are those of fewer."""
        generator = self._generator(_QUERIES)
        queries_BD = np.empty((num_queries, self.dimension), dtype=np.float32)
        for query_D in queries_BD:
            query_D[:] = self._near_centres(generator, 1)[0]
        return queries_BD

    def _chunk(self, chunk: int) -> np.ndarray:
        return self._near_centres(self._generator(_ROWS, chunk), self._rows_of_chunk(chunk))

    def _rows_of_chunk(self, chunk: int) -> int:
        return min(ROWS_PER_CHUNK, self.num_rows - chunk * ROWS_PER_CHUNK)

    def _clusters(self, generator: np.random.Generator, num_rows: int) -> np.ndarray:
        return generator.integers(len(self.centres), size=num_rows)

    def _near_centres(self, generator: np.random.Generator, num_rows: int) -> np.ndarray:
        clusters_R = self._clusters(generator, num_rows)
        noise_RD = generator.standard_normal((num_rows, self.dimension), dtype=np.float32)
        noise_RD *= np.float32(self.noise)
        noise_RD += self.centres[clusters_R]
        return noise_RD

    def _generator(self, *numbers: int) -> np.random.Generator:
        return np.random.Generator(np.random.SFC64([self.seed, *numbers]))
