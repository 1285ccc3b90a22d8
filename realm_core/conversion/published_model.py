"""What a published model's directory holds: an embedder, a reader, block embeddings, block records."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realm_core.errors import EncoderError
from realm_core.modeling.configuration import RealmConfig
from realm_core.modeling.open_qa import BLOCK_EMBEDDINGS
from realm_core.modeling.weights import read_config, read_tensor, read_tensors, resolve_directory, tensor_names
from realm_core.storage.encoder_pointer import PUBLISHED_PREFIX

BLOCK_RECORDS = "block_records.npy"
ROWS_PER_CHECK = 65_536
MAX_MAPPED_BYTES = 1 << 28
"""So much of the block embeddings is read before their file is mapped anew: pages that were read count as memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedModel:
    """A directory of a REALM model; nothing is loaded yet."""

    directory: Path
    config: dict[str, Any]
    """The fields of config.json."""
    names: frozenset[str]
    """Of all tensors."""

    @property
    def has_embedder(self) -> bool:
        """Whether it embeds queries and blocks: RealmEmbedder, RealmScorer, RealmForOpenQA."""
        return "cls.dense.weight" in self.names or "embedder.cls.dense.weight" in self.names

    @property
    def has_reader(self) -> bool:
        """Whether it is a whole RealmForOpenQA; a reader alone has other names, and no embedder to retrieve with."""
        return self.has_embedder and any(name.startswith("reader.") for name in self.names)

    @property
    def has_block_embeddings(self) -> bool:
        """Whether block embeddings lie among its weights."""
        return BLOCK_EMBEDDINGS in self.names

    @property
    def max_block_tokens(self) -> int:
        """Positions of its encoder."""
        return int(self.config.get("max_position_embeddings", RealmConfig.max_position_embeddings))

    @property
    def dimension(self) -> int:
        """D: the width of its embeddings."""
        return int(self.config.get("retriever_proj_size", RealmConfig.retriever_proj_size))

    @property
    def architecture(self) -> str:
        """The class that it was saved from, as config.json names it."""
        return ", ".join(self.config.get("architectures") or ["unnamed"])

    @property
    def block_records_file(self) -> Path | None:
        """Its `block_records.npy`, if there is one."""
        file = self.directory / BLOCK_RECORDS
        return file if file.is_file() else None

    def reader_tensors(self) -> dict[str, Tensor]:
        """All weights of a RealmForOpenQA but the block embeddings, each with memory of its own or a file's."""
        tensors = read_tensors(self.directory)
        tensors.pop(BLOCK_EMBEDDINGS, None)
        return _without_sharing(tensors)


def open_published_model(path_or_id: str, *, with_block_records: bool) -> PublishedModel:
    """Looks into a directory, or downloads a hub model.

    Args:
        path_or_id: directory or hub id.
        with_block_records: downloads the hub model's block records as well.

    Raises:
        EncoderError: no such model, not of the REALM family, or weights that cannot be read.
    """
    directory = resolve_directory(path_or_id, with_block_records=with_block_records)
    config = read_config(directory)
    if config.get("model_type") != "realm":
        raise EncoderError(
            where=str(directory),
            found=f"model_type {config.get('model_type')!r} in config.json",
            expected="'realm': a published model of the REALM family",
            action="Pass a BERT checkpoint to `realm ingest`, `warmup` and `embed` as --encoder instead.",
        )
    return PublishedModel(directory=directory, config=config, names=frozenset(tensor_names(directory)))


class BlockEmbeddings:
    """The rows of `block_emb`, read from the file part by part.

    Shapes: R rows, D projection.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mapped: Tensor | None = None
        self._num_bytes_read = 0
        tensor = self._tensor()
        self.shape: tuple[int, ...] = tuple(tensor.shape)
        self._row_bytes = tensor.nbytes // max(1, self.shape[0] if self.shape else 1)

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` [R, D], float32."""
        return self._slice(start, stop).float().numpy()

    def check(self, *, num_records: int, dimension: int, progress: Callable[[int], None] = lambda _: None) -> str:
        """SHA-256 (hex) of the rows' bytes, once all of them have been found fit to be searched.

        Raises:
            EncoderError: another number of rows than records, another width than the embedder's, or a row that is
                NaN, infinite, or all zeros.
        """
        self._check_shape(num_records, dimension)
        digest = hashlib.sha256()
        for start in range(0, len(self), ROWS_PER_CHECK):
            chunk = self._slice(start, min(start + ROWS_PER_CHECK, len(self)))
            digest.update(chunk.view(torch.uint8).numpy().data)
            self._check_values(chunk.float().numpy(), start)
            progress(start + len(chunk))
        return digest.hexdigest()

    def _tensor(self) -> Tensor:
        if self._mapped is None or self._num_bytes_read > MAX_MAPPED_BYTES:
            self._mapped, self._num_bytes_read = None, 0
            self._mapped = read_tensor(self._directory, BLOCK_EMBEDDINGS)
        assert self._mapped is not None
        return self._mapped

    def _slice(self, start: int, stop: int) -> Tensor:
        self._num_bytes_read += (stop - start) * self._row_bytes
        return self._tensor()[start:stop].contiguous()

    def _check_shape(self, num_records: int, dimension: int) -> None:
        if len(self.shape) != 2 or not self._tensor().is_floating_point() or self.shape[1] != dimension:
            raise self._unfit(
                f"{self._tensor().dtype} of shape {list(self.shape)}",
                f"floating-point numbers of shape [blocks, {dimension}], as retriever_proj_size in config.json says",
                "Use the weights and the config.json of one and the same model.",
            )
        if len(self) != num_records:
            raise self._unfit(
                f"{len(self):,} rows",
                f"{num_records:,}, as many as there are block records",
                "Give the block_records.npy that was published with this model: row i embeds record i.",
            )

    def _check_values(self, rows_RD: np.ndarray, first: int) -> None:
        for is_bad, what in (
            (~np.isfinite(rows_RD).all(axis=1), "NaN or infinity"),
            (~rows_RD.any(axis=1), "all zeros"),
        ):
            if is_bad.any():
                raise self._unfit(
                    f"{what} in row {first + int(is_bad.argmax()):,}",
                    "a vector of finite numbers, not all zero, for every block",
                    "Download the weights again; or leave them, and run `realm embed` on the converted records.",
                )

    def _unfit(self, found: str, expected: str, action: str) -> EncoderError:
        return EncoderError(
            where=f"{self._directory}, {BLOCK_EMBEDDINGS}", found=found, expected=expected, action=action
        )


def published_precision(block_embeddings_sha256: str) -> str:
    """What stands in place of a precision in the names of published embeddings."""
    return PUBLISHED_PREFIX + block_embeddings_sha256[:12]


def parts_of_records(batches: Iterator[list[bytes]], rows_per_part: int) -> Iterator[list[bytes]]:
    """The same records, in their order, `rows_per_part` at a time; the last part has what is left."""
    part: list[bytes] = []
    for batch in batches:
        part += batch
        while len(part) >= rows_per_part:
            yield part[:rows_per_part]
            part = part[rows_per_part:]
    if part:
        yield part


def _without_sharing(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors that share their memory with an earlier one, as tied weights do: safetensors refuses those."""
    seen: set[int] = set()
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        is_shared = tensor.data_ptr() in seen
        seen.add(tensor.data_ptr())
        result[name] = tensor.clone() if is_shared else tensor.contiguous()
    return result
