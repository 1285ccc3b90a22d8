"""Exact search by torch's matrix product, on the GPU where there is one: no build time, recall 1.

All of Wikipedia (13.4 million rows x 128) is 6.8 GB in float32, or 3.4 GB in float16 on the GPU. Products only
propose: relevances are float32 inner products with the float32 vectors, the same bits on every device and in either
type (`realm_core.index.settling`).

Shape letters: `B` queries, `N` candidates, `D` projection, `R` rows.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import torch

from realm_core.index.description import SearcherDescription
from realm_core.index.searcher import SearchHits, no_hits, require_searchable, validate_queries
from realm_core.index.setting import SearchSetting
from realm_core.index.settling import largest_norm, num_candidates, settle
from realm_core.index.specs import ResolvedSpec
from realm_core.index.vectors import load_vectors, save_vectors

_PRODUCT_ERRORS = {"highest": 0.0, "high": 2.0**-9, "medium": 2.0**-6}
"""Relative error of a product beyond float32's rounding, by `torch.get_float32_matmul_precision()`: TF32 keeps 11
bits of each factor, bfloat16 8; both bounds are doubled."""

_HALF_PRECISION_ERROR = 2.0**-9
"""Relative error of a product of float16 vectors: each factor is rounded by up to 2^-11 of its largest component's
power of two, both together by 2^-10 of the norms' product; doubled, for sums in float32 and scores in float16."""

_NUM_SCORES = {"cpu": 1 << 22, "cuda": 1 << 28}
"""Scores computed at a time: 16 MB stays in the caches of a CPU, 1 GB keeps a GPU busy."""

_QUERIES_PER_STEP = 256
_ROWS_PER_COPY = 1 << 18


class ExactSearcher:
    """Compares a query with every row."""

    def __init__(
        self,
        embeddings_RD: np.ndarray,
        spec: ResolvedSpec,
        device: str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._embeddings_RD = embeddings_RD
        self._max_norm = largest_norm(embeddings_RD)
        self._spec = spec
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = dtype
        # A power of two, so that scaling rounds nothing, and no component or score leaves float16's range.
        self._scale = 1.0 if self._dtype == torch.float32 else _power_of_two_above(self._max_norm)
        self._device_embeddings_RD = _as_device_copy(embeddings_RD, device, self._dtype, self._scale)

    @classmethod
    def build(
        cls,
        embeddings_RD: np.ndarray,
        spec: ResolvedSpec,
        device: str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> ExactSearcher:
        """Over the given array itself, which must not change afterwards, and its copy on the GPU.

        Args:
            embeddings_RD: float32.
            spec: of the kind `exact`.
            device: a torch device; left out, the first GPU, or the CPU where there is none.
            dtype: of the products that propose candidates, float32 or float16. What is found is the same. In float16
                the GPU's copy takes half the memory, but more queries have near-ties at the last hit that its rounding
                cannot tell apart, and those are searched again, in float32 and by the CPU.
        """
        require_searchable(embeddings_RD, where="exact index build")
        return cls(np.ascontiguousarray(embeddings_RD), spec, device, dtype)

    @classmethod
    def load(cls, directory: Path, device: str | None = None, dtype: torch.dtype = torch.float32) -> ExactSearcher:
        """Over the memory-mapped file, and its copy on the GPU; device and type as in `build`."""
        description = SearcherDescription.read(directory)
        return cls(load_vectors(directory, description), description.spec, device, dtype)

    @property
    def num_rows(self) -> int:
        """`R`."""
        return int(self._embeddings_RD.shape[0])

    @property
    def dimension(self) -> int:
        """`D`."""
        return int(self._embeddings_RD.shape[1])

    def search(self, queries_BD: np.ndarray, num_hits: int, setting: SearchSetting | None = None) -> SearchHits:  # noqa: ARG002 - nothing to set
        """The exact top `num_hits`, ties by the smaller row."""
        queries_BD = validate_queries(queries_BD, dimension=self.dimension, num_hits=num_hits)
        if not len(queries_BD):
            return no_hits(0, num_hits)
        num_found = min(num_hits, self.num_rows)
        hits = settle(
            self._embeddings_RD,
            queries_BD,
            self._propose(queries_BD, num_candidates(num_found, self.num_rows)),
            num_found,
            max_norm=self._max_norm,
            product_error=self._product_error(),
        )
        return hits.padded(num_hits)

    def save(self, directory: Path) -> None:
        """Writes `embeddings.npy` and `searcher.json`."""
        SearcherDescription(spec=self._spec, num_rows=self.num_rows, dimension=self.dimension).write(directory)
        save_vectors(self._embeddings_RD, directory)

    def _propose(self, queries_BD: np.ndarray, num_proposed: int) -> SearchHits:
        device = self._device_embeddings_RD.device
        best = []
        with torch.inference_mode():
            for start in range(0, len(queries_BD), _QUERIES_PER_STEP):
                queries = torch.from_numpy(queries_BD[start : start + _QUERIES_PER_STEP]).to(device)
                norms_B1 = self._scaled_norms(queries)
                relevances, rows = top_rows(
                    self._device_embeddings_RD, (queries / norms_B1).to(self._dtype), num_proposed
                )
                best.append((relevances.float() * norms_B1 * self._scale, rows))
        relevances_BN = torch.cat([relevances.cpu() for relevances, _ in best]).numpy()
        return SearchHits(relevances_BN, torch.cat([rows.cpu() for _, rows in best]).numpy())

    def _scaled_norms(self, queries_BD: torch.Tensor) -> torch.Tensor:
        """What queries are divided by, so that their scores fit float16: 1 in float32."""
        if self._dtype == torch.float32:
            return torch.ones(len(queries_BD), 1, device=queries_BD.device)
        norms_B1 = torch.linalg.vector_norm(queries_BD, dim=1, keepdim=True)
        return torch.exp2(torch.ceil(torch.log2(norms_B1.clamp_min(torch.finfo(torch.float32).tiny))))

    def _product_error(self) -> float:
        if self._dtype == torch.float32:
            return _PRODUCT_ERRORS[torch.get_float32_matmul_precision()]
        return _HALF_PRECISION_ERROR


def top_rows(
    embeddings_RD: torch.Tensor, queries_BD: torch.Tensor, num_proposed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Relevances and rows `[B, N]` by the matrix product, best first, block of rows by block of rows."""
    rows_per_step = max(num_proposed, _NUM_SCORES[embeddings_RD.device.type] // len(queries_BD))
    best_relevances_BN = queries_BD.new_empty(len(queries_BD), 0)
    best_rows_BN = torch.empty(len(queries_BD), 0, dtype=torch.int64, device=queries_BD.device)
    for start in range(0, len(embeddings_RD), rows_per_step):
        block_RD = embeddings_RD[start : start + rows_per_step]
        relevances_BN, rows_BN = (queries_BD @ block_RD.T).topk(min(num_proposed, len(block_RD)), dim=1)
        relevances_BN = torch.cat((best_relevances_BN, relevances_BN), dim=1)
        rows_BN = torch.cat((best_rows_BN, rows_BN + start), dim=1)
        best_relevances_BN, order_BN = relevances_BN.topk(min(num_proposed, relevances_BN.shape[1]), dim=1)
        best_rows_BN = rows_BN.gather(1, order_BN)
    return best_relevances_BN, best_rows_BN


def _power_of_two_above(value: float) -> float:
    return 2.0 ** math.ceil(math.log2(max(value, float(np.finfo(np.float32).tiny))))


def _as_device_copy(embeddings_RD: np.ndarray, device: str, dtype: torch.dtype, scale: float) -> torch.Tensor:
    """On the device and of the type that products are made with, part by part where they are converted."""
    whole = _as_tensor(embeddings_RD)
    if dtype == torch.float32:
        return whole.to(device)
    copy = torch.empty(whole.shape, dtype=dtype, device=device)
    for start in range(0, len(whole), _ROWS_PER_COPY):
        step = slice(start, start + _ROWS_PER_COPY)
        copy[step] = (whole[step].to(device) / scale).to(dtype)
    return copy


def _as_tensor(embeddings_RD: np.ndarray) -> torch.Tensor:
    """Shares the memory; torch warns of read-only arrays, which nothing here writes to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(embeddings_RD)
