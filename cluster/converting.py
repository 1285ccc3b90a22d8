"""Bringing published block records into the store: one Ray task per part, a bounded number under way."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError
from tokenizers import Tokenizer

from cluster.calls import as_realm_error, dead_process
from cluster.session import OBJECT_STORE_BYTES
from realm_core.conversion.part_converter import ConvertedPart, PartConverter, PartSource, PublishedEmbeddings
from realm_core.storage.digests import digest_of_uids
from realm_core.storage.files import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from realm_core.storage.block_store import PartEntry

TASK_CPUS = 1.0
PARTS_AHEAD = 2
"""Parts that wait beyond those being worked at."""
MAX_PARTS_UNDER_WAY = 64
"""However many CPUs there are: bounds the memory, and one process reads no faster than these work."""
BYTES_PER_PART = 32 << 20
"""Texts and embeddings of a part of 16,384 records, as it lies in Ray's object store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversionRules:
    """What all parts of a conversion have in common."""

    tokenizer_json: str
    max_block_tokens: int
    embeddings: PublishedEmbeddings | None
    where: str
    """Names the records in errors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertedRecords:
    """What became of the records: `num_records = num_converted + num_reused`."""

    parts: tuple[PartEntry, ...]
    uid_digest: str
    num_converted: int
    num_reused: int
    num_truncated: int
    num_embeddings_written: int
    num_embeddings_reused: int


def convert_records(
    sources: Iterator[PartSource],
    store: Store,
    rules: ConversionRules,
    *,
    num_cpus: float,
    progress: Callable[[int, int], None] = lambda _, __: None,
) -> ConvertedRecords:
    """Converts parts in their order; `progress` is called with the records done, and how many of them were there.

    Raises:
        SourceError: a record that is no UTF-8, or a file of records that is damaged or truncated; parts that are done
            are kept.
        ServiceUnavailableError: a task's process died again and again.
    """
    ahead = parts_under_way(num_cpus)
    task = _convert_part.options(num_cpus=min(TASK_CPUS, num_cpus))
    shared = ray.put(rules)
    under_way: deque[Any] = deque()
    done: list[ConvertedPart] = []

    def collect() -> None:
        done.append(_result(under_way.popleft(), rules.where))
        num_reused = sum(part.entry.num_rows for part in done if part.was_reused)
        progress(sum(part.entry.num_rows for part in done), num_reused)

    progress(0, 0)
    for source in sources:
        under_way.append(task.remote(store.url, source, shared))
        if len(under_way) >= ahead:
            collect()
    while under_way:
        collect()
    return _summary(done)


def parts_under_way(num_cpus: float) -> int:
    """How many parts are in memory at a time."""
    return min(MAX_PARTS_UNDER_WAY, max(1, int(num_cpus / TASK_CPUS)) + PARTS_AHEAD)


def object_store_bytes(num_cpus: float) -> int:
    """What the parts under way take in the object store of a local cluster."""
    return max(OBJECT_STORE_BYTES, parts_under_way(num_cpus) * BYTES_PER_PART)


@ray.remote
def _convert_part(store_url: str, source: PartSource, rules: ConversionRules) -> ConvertedPart:
    converter = PartConverter(
        Store(store_url),
        tokenizer=Tokenizer.from_str(rules.tokenizer_json),
        max_block_tokens=rules.max_block_tokens,
        embeddings=rules.embeddings,
        where=rules.where,
    )
    return converter.convert(source)


def _result(ref: Any, where: str) -> ConvertedPart:  # noqa: ANN401 - refs are untyped
    try:
        part: ConvertedPart = ray.get(ref)
    except RayTaskError as error:
        raise as_realm_error(error) from error
    except RayError as error:
        raise dead_process(f"conversion of {where}", error) from error
    return replace(part, uids=part.uids.copy())  # else every part's uids would stay in Ray's object store


def _summary(parts: list[ConvertedPart]) -> ConvertedRecords:
    def rows(kept: list[ConvertedPart]) -> int:
        return sum(part.entry.num_rows for part in kept)

    return ConvertedRecords(
        parts=tuple(part.entry for part in parts),
        uid_digest=digest_of_uids(np.concatenate([part.uids for part in parts])),
        num_converted=rows([part for part in parts if not part.was_reused]),
        num_reused=rows([part for part in parts if part.was_reused]),
        num_truncated=sum(part.num_truncated for part in parts),
        num_embeddings_written=rows([part for part in parts if part.embeddings_were_reused is False]),
        num_embeddings_reused=rows([part for part in parts if part.embeddings_were_reused]),
    )
