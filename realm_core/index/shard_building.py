"""Building one index shard from its parts' embeddings, in memory that the index itself takes and one part more.

Shape letters: `B` queries, `K` hits, `D` projection, `R` rows.
"""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from realm_core.index.building import index_builder, sample_rows
from realm_core.index.gate import check_embeddings
from realm_core.index.known_queries import NUM_KNOWN_HITS, known_queries_of, save_known
from realm_core.index.shards import MANIFEST_NAME, ShardPlan, shard_bytes, shard_is_whole
from realm_core.index.truth import ExactTopK
from realm_core.storage.digests import digest_of_file, digest_of_uids
from realm_core.storage.embedding_store import read_embeddings
from realm_core.storage.local_files import Place
from realm_core.storage.snapshots import ShardEntry, shard_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from realm_core.index.searcher import SearchHits
    from realm_core.storage.files import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltShard:
    """A shard, and what the gate needs of it."""

    entry: ShardEntry
    was_reused: bool
    uids: np.ndarray
    """[R] (V20)."""
    exact: SearchHits
    """What exact search over the shard's embeddings finds for the gate's queries; block ids are global."""
    build_seconds: float
    """Of training and adding; 0 where the shard was reused."""


@dataclass(frozen=True, slots=True)
class _Batch:
    uids: np.ndarray
    embeddings_RD: np.ndarray
    first_row: int


def build_shard(store: Store, plan: ShardPlan, gate_queries_BD: np.ndarray, *, num_hits: int) -> BuiltShard:
    """Builds the shard unless it is there and whole, and finds the exact hits of the gate's queries on the way.

    Raises:
        StoreError: embeddings missing or damaged; no room in the store, or in the temporary folder.
        GateError: NaN or zero rows, or embeddings of another width than the queries.
    """
    truth, known = ExactTopK(gate_queries_BD, num_hits), None
    dimension = gate_queries_BD.shape[1]
    uids = []
    was_reused = shard_is_whole(store, plan.digest)
    started = time.monotonic()
    with _scratch_folder() as folder:
        builder = None
        if not was_reused:
            sample_RD = _sample(store, plan, dimension)
            builder = index_builder(
                plan.resolved_spec, num_rows=plan.num_rows, dimension=dimension, sample_RD=sample_RD, folder=folder
            )
            del sample_RD
        for batch in _batches(store, plan, dimension):
            known = known or ExactTopK(known_queries_of(batch.embeddings_RD), NUM_KNOWN_HITS)
            known.add(batch.embeddings_RD, batch.first_row)
            uids.append(batch.uids)
            truth.add(batch.embeddings_RD, plan.first_block_id + batch.first_row)
            if builder is not None:
                builder.add(batch.embeddings_RD)
        if builder is not None:
            builder.finish()
            assert known is not None, "a shard has at least one part"
            save_known(folder, known)
            _put(store, plan, folder)
    return BuiltShard(
        entry=plan.entry(shard_bytes(store, plan.digest)),
        was_reused=was_reused,
        uids=np.concatenate(uids),
        exact=truth.hits,
        build_seconds=0.0 if was_reused else time.monotonic() - started,
    )


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    """Removed at the end; a failure to write in it says which folder that is."""
    try:
        with tempfile.TemporaryDirectory(prefix="realm-shard-") as name:
            yield Path(name)
    except OSError as error:
        raise Place(f"folder {tempfile.gettempdir()}", "TMPDIR").cannot_write(error) from error


def uid_digest_of(shards: Sequence[BuiltShard]) -> str:
    """Digest of all uids of all shards."""
    return digest_of_uids(np.concatenate([shard.uids for shard in shards]))


def _batches(store: Store, plan: ShardPlan, dimension: int) -> Iterator[_Batch]:
    """The shard's embeddings, part by part, each looked at."""
    first_row = 0
    for digest, part in zip(plan.embedding_digests, plan.parts, strict=True):
        uids, embeddings_RD = read_embeddings(store, digest, part)
        check_embeddings(
            embeddings_RD, where=f"embeddings {digest[:12]} of part {part.digest[:12]}", dimension=dimension
        )
        yield _Batch(uids, embeddings_RD, first_row)
        first_row += len(embeddings_RD)


def _sample(store: Store, plan: ShardPlan, dimension: int) -> np.ndarray:
    """The rows that the index trains on."""
    rows = sample_rows(plan.resolved_spec, plan.num_rows)
    sample_RD = np.empty((len(rows), dimension), dtype=np.float32)
    if not len(rows):
        return sample_RD
    for batch in _batches(store, plan, dimension):
        start, stop = np.searchsorted(rows, (batch.first_row, batch.first_row + len(batch.embeddings_RD)))
        sample_RD[start:stop] = batch.embeddings_RD[rows[start:stop] - batch.first_row]
    return sample_RD


def _put(store: Store, plan: ShardPlan, folder: Path) -> None:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    manifest = {
        "num_rows": plan.num_rows,
        "spec": plan.resolved_spec.to_json(),
        "embeddings": list(plan.embedding_digests),
        "sizes_bytes": {path.name: path.stat().st_size for path in files},
        "sha256": {path.name: digest_of_file(path) for path in files},
    }
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n")
    store.put_folder(folder, shard_path(plan.digest), last=MANIFEST_NAME)
