"""Checking a snapshot from its files alone: the gate before publishing by hand, and `realm snapshots verify`.

`realm index` and refreshes run their gate on what they have in memory; this one reads everything again, so that it also
finds what was damaged since. It goes on after the first failure and names every file that is not as it was written.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from realm_core.errors import ArtifactCorruptError, ArtifactMissingError, EncoderError, GateError
from realm_core.index.gate import GateCheck, GateReport, check_embeddings
from realm_core.index.known_queries import QUERIES_NAME, RELEVANCES_NAME
from realm_core.index.shards import MANIFEST_NAME
from realm_core.storage.block_store import load_corpus
from realm_core.storage.digests import digest_of_uids
from realm_core.storage.embedding_store import embedding_digest, embedding_path, parse_embeddings
from realm_core.storage.encoder_store import encoder_path, get_encoder
from realm_core.storage.snapshots import load_snapshot, shard_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from realm_core.storage.block_store import CorpusManifest, PartEntry
    from realm_core.storage.files import Store
    from realm_core.storage.snapshots import ShardEntry, SnapshotManifest

NUM_THREADS = min(8, os.cpu_count() or 1)
RECALL = "recall@"
DAMAGED = (ArtifactCorruptError, ArtifactMissingError)


@dataclass(frozen=True, slots=True)
class _Embeddings:
    """What was found in the embeddings of one part."""

    num_rows: int
    uids: np.ndarray
    problems: tuple[GateCheck, ...]


def check_snapshot(
    store: Store, manifest: SnapshotManifest, *, progress: Callable[[int, int], None] = lambda *_: None
) -> GateReport:
    """Reads every file of the snapshot and says how each check went.

    The store's own bytes are read, not this machine's copies of them. In memory are a part's embeddings per thread, and
    20 bytes for each row of the corpus. `progress` gets the number of files done, of all.

    Raises:
        StoreError: the store cannot be read; damage is no error here, but a failed check.
    """
    return _SnapshotCheck(store, manifest, progress).run()


def check_stored_snapshot(
    store: Store, snapshot_id: str, *, progress: Callable[[int, int], None] = lambda *_: None
) -> GateReport:
    """`check_snapshot` of a snapshot of the store; a damaged manifest is a failed check as well."""
    try:
        manifest = load_snapshot(store, snapshot_id)
    except ArtifactCorruptError as error:
        return GateReport([GateCheck(f"manifest {snapshot_id}", error.found, error.expected, False)])
    report = check_snapshot(store, manifest, progress=progress)
    found = manifest.snapshot_id
    report.checks.insert(0, GateCheck("id of the manifest", found, snapshot_id, found == snapshot_id))
    return report


class _SnapshotCheck:
    def __init__(self, store: Store, manifest: SnapshotManifest, progress: Callable[[int, int], None]) -> None:
        self._store = store
        self._manifest = manifest
        self._progress = progress
        self._num_done = 0
        self._num_files = len(manifest.shards) + len(manifest.embedding_digests) + 1
        self._report = GateReport()

    def run(self) -> GateReport:
        corpus = self._corpus()
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            for checks in pool.map(lambda entry: check_shard(self._store, entry), self._manifest.shards):
                self._add(checks)
            if corpus is not None:
                self._rows_of_shards(corpus)
                self._embeddings(corpus, pool)
        self._add([check_encoder(self._store, self._manifest.encoder_digest)])
        self._report.checks += recall_checks(self._manifest)
        return self._report

    def _corpus(self) -> CorpusManifest | None:
        digest = self._manifest.corpus_digest
        try:
            corpus = load_corpus(self._store, digest)
        except DAMAGED as error:
            self._report.checks.append(_damaged(f"corpora/{digest}.json", error))
            return None
        self._report.check("corpus manifest", found=corpus.digest, expected=digest, passed=corpus.digest == digest)
        return corpus

    def _rows_of_shards(self, corpus: CorpusManifest) -> None:
        found, expected = self._manifest.num_rows, corpus.num_blocks
        self._report.check("rows of shards", found=found, expected=expected, passed=found == expected)

    def _embeddings(self, corpus: CorpusManifest, pool: ThreadPoolExecutor) -> None:
        digests, parts = self._manifest.embedding_digests, corpus.parts
        self._report.check("embedded parts", found=len(digests), expected=len(parts), passed=len(digests) == len(parts))
        read = pool.map(lambda pair: check_part(self._store, self._manifest, *pair), zip(digests, parts, strict=False))
        found = []
        for embeddings in read:
            found.append(embeddings)
            self._add(embeddings.problems)
        problems = sum(bool(embeddings.problems) for embeddings in found)
        self._report.check("parts whose embeddings are damaged", found=problems, expected=0, passed=not problems)
        rows = sum(embeddings.num_rows for embeddings in found)
        self._report.check("embedded rows", found=rows, expected=corpus.num_blocks, passed=rows == corpus.num_blocks)
        uid_digest = digest_of_uids(np.concatenate([embeddings.uids for embeddings in found]))
        self._report.check(
            "uid digest", found=uid_digest, expected=corpus.uid_digest, passed=uid_digest == corpus.uid_digest
        )

    def _add(self, checks: Sequence[GateCheck]) -> None:
        """The checks of one file, or of one shard."""
        self._report.checks += checks
        self._num_done += 1
        self._progress(self._num_done, self._num_files)


def check_shard(store: Store, entry: ShardEntry) -> list[GateCheck]:
    """One check when all is well; else one for each file that is missing, cut short, or has other bytes."""
    folder = shard_path(entry.digest)
    try:
        manifest = store.read_json(f"{folder}/{MANIFEST_NAME}", required=("sha256", "sizes_bytes", "num_rows"))
    except DAMAGED as error:
        return [_damaged(f"{folder}/{MANIFEST_NAME}", error)]
    sizes_bytes = store.sizes_bytes(folder)
    failed = [
        GateCheck(f"{folder}/{name}", "not among the shard's files", "built by this version: run `realm index`", False)
        for name in (QUERIES_NAME, RELEVANCES_NAME)
        if name not in manifest["sha256"]
    ]
    for name, sha256 in manifest["sha256"].items():
        path = f"{folder}/{name}"
        expected_bytes, found_bytes = manifest["sizes_bytes"][name], sizes_bytes.get(path)
        if found_bytes is None:
            failed.append(GateCheck(path, "no such file", f"{expected_bytes:,} bytes", False))
        elif found_bytes != expected_bytes:
            failed.append(GateCheck(path, f"{found_bytes:,} bytes", f"{expected_bytes:,} bytes", False))
        elif (found := store.sha256(path)) != sha256:
            failed.append(GateCheck(path, f"sha256 {found[:12]}", f"sha256 {sha256[:12]}", False))
    name = f"index shard {entry.digest[:12]}, rows"
    rows = GateCheck(name, manifest["num_rows"], entry.num_rows, manifest["num_rows"] == entry.num_rows)
    return failed or [rows]


def check_part(store: Store, manifest: SnapshotManifest, digest: str, part: PartEntry) -> _Embeddings:
    """Whether a part's embeddings are there, whole, of this encoder, and fit to be searched."""
    path = embedding_path(digest)
    expected_digest = embedding_digest(part.digest, manifest.encoder_digest, manifest.precision)
    try:
        uids, embeddings_RD = parse_embeddings(store.read_bytes(path), digest, part, where=path)
    except DAMAGED as error:
        return _Embeddings(0, _NO_UIDS, (_damaged(path, error),))
    problems = []
    if digest != expected_digest:
        expected = f"embeddings of encoder {manifest.encoder_digest[:12]} in {manifest.precision}"
        problems.append(GateCheck(f"encoder digest of {path}", "another encoder or precision", expected, False))
    try:
        check_embeddings(embeddings_RD, where=path, dimension=manifest.dimension)
    except GateError as error:
        problems.append(GateCheck(path, error.found, error.expected, False))
    return _Embeddings(len(uids), uids.copy(), tuple(problems))  # copied: it is a view of the whole file


def check_encoder(store: Store, digest: str) -> GateCheck:
    """Whether the encoder is there and its weights are the ones that its name stands for."""
    store.forget_copies(encoder_path(digest))
    try:
        get_encoder(store, digest)
    except (*DAMAGED, EncoderError) as error:
        return GateCheck(encoder_path(digest), error.found, "the encoder's files as they were written", False)
    return GateCheck("encoder digest", digest, digest, True)


def recall_checks(manifest: SnapshotManifest) -> list[GateCheck]:
    """What `realm index` measured against exact search; no measurement is a failure."""
    recorded = manifest.gate.get("checks", [])
    measured = [GateCheck(**check) for check in recorded if str(check.get("name", "")).startswith(RECALL)]
    return measured or [GateCheck("recall@5", "not measured", "measured by `realm index`", False)]


def _damaged(path: str, error: ArtifactCorruptError | ArtifactMissingError) -> GateCheck:
    found = "no such file" if isinstance(error, ArtifactMissingError) else error.found
    return GateCheck(path, found, "the file as it was written", False)


_NO_UIDS = np.zeros(0, dtype="V20")
