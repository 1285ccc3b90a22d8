"""What is in a store, and what names it: all that garbage collection must know before it removes anything.

Only what lies in `snapshots/`, `indexes/`, `embeddings/` and `encoders/` is ever removed. Besides the kept snapshots,
these are named by:

- `encoders/CURRENT`, the newest encoder. Its embeddings of the current corpus are kept also where no record says that
  they are complete: an interrupted `realm embed` goes on from them.
- `embedded/*.json`, the last complete embedding of a corpus by an encoder; counts for the newest encoder.
- `readers/CURRENT`: the encoder that retrieves for the reader.
- `runs/<name>/`: the snapshot that a run began with, until the run is complete, and the encoder that it came to.

A refresh that died before it published is made again from its training checkpoint, embeddings and all.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from realm_core.errors import ArtifactCorruptError, StoreError
from realm_core.storage.block_store import load_corpus
from realm_core.storage.embedded_corpus import list_embedded_corpora
from realm_core.storage.embedding_store import embedding_origin
from realm_core.storage.encoder_pointer import current_encoder, has_current_encoder
from realm_core.storage.local_files import TEMPORARY_MARK
from realm_core.storage.reader_store import current_reader, has_current_reader
from realm_core.storage.retention import Artifacts, artifacts_of
from realm_core.storage.snapshots import list_snapshots, load_snapshot, snapshot_path

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from realm_core.storage.files import Store
    from realm_core.storage.snapshots import SnapshotManifest

FOLDERS = ("snapshots", "indexes", "embeddings", "encoders")
"""The only ones in which garbage collection removes anything."""
NUM_READING_THREADS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """A store as garbage collection sees it."""

    manifests: dict[str, SnapshotManifest]
    stored: Artifacts
    named_elsewhere: Artifacts
    pinned: dict[str, str]
    """Snapshots that something other than the pointer needs, and what."""
    leftovers: tuple[str, ...]
    """Paths of files with temporary names: their writers are dead, for there is one writer at a time."""
    sizes_bytes: dict[str, int]
    """Of every file in `FOLDERS`, by path."""


def take_inventory(store: Store) -> Inventory:
    """Looks at everything; nothing may be written meanwhile.

    Raises:
        StoreError: a manifest, record or pointer cannot be read, so that nobody knows what it names.
    """
    manifests = _manifests(store)
    sizes_bytes = {path: size for folder in FOLDERS for path, size in store.sizes_bytes(folder).items()}
    leftovers = tuple(path for path in sizes_bytes if TEMPORARY_MARK in path)
    stored = _stored([path for path in sizes_bytes if TEMPORARY_MARK not in path])
    unnamed = stored - artifacts_of(*manifests.values())
    return Inventory(
        manifests=manifests,
        stored=stored,
        named_elsewhere=_named_elsewhere(store, unnamed.embeddings),
        pinned=_pinned_by_runs(store),
        leftovers=leftovers,
        sizes_bytes=sizes_bytes,
    )


def _manifests(store: Store) -> dict[str, SnapshotManifest]:
    manifests, damaged = {}, []
    for snapshot_id in list_snapshots(store):
        try:
            manifests[snapshot_id] = load_snapshot(store, snapshot_id)
        except ArtifactCorruptError as error:
            damaged.append((snapshot_path(snapshot_id), error.found))
    if damaged:
        raise StoreError(
            where=f"store {store.url}",
            found="; ".join(f"{path}: {found}" for path, found in damaged),
            expected="manifests that can be read: nobody knows which files the damaged ones name",
            action="Nothing was removed. Run `realm index` again to mend what is live, or remove these manifests.",
        )
    return manifests


def _stored(paths: Collection[str]) -> Artifacts:
    def names(folder: str) -> set[str]:
        return {path.split("/")[1] for path in paths if path.startswith(f"{folder}/")}

    embeddings = {name.removesuffix(".parquet") for name in names("embeddings") if name.endswith(".parquet")}
    encoders = {path.split("/")[1] for path in paths if path.startswith("encoders/") and path.count("/") > 1}
    return Artifacts(shards=frozenset(names("indexes")), embeddings=frozenset(embeddings), encoders=frozenset(encoders))


def _named_elsewhere(store: Store, unnamed_embeddings: Collection[str]) -> Artifacts:
    embeddings: set[str] = set()
    encoders = _encoders_of_runs(store)
    if has_current_reader(store):
        encoders.add(current_reader(store).encoder_digest)
    if has_current_encoder(store):
        newest = current_encoder(store).digest
        encoders.add(newest)
        for record in list_embedded_corpora(store):
            if record.encoder_digest == newest:
                embeddings.update(record.embedding_digests)
        embeddings.update(_begun(store, newest, sorted(set(unnamed_embeddings) - embeddings)))
    return Artifacts(embeddings=frozenset(embeddings), encoders=frozenset(encoders))


def _begun(store: Store, encoder_digest: str, embedding_digests: list[str]) -> list[str]:
    """Those that an encoder made of the current corpus, by what their files say of themselves."""
    parts = {part.digest for part in load_corpus(store).parts}
    with ThreadPoolExecutor(NUM_READING_THREADS) as pool:
        origins = list(pool.map(lambda digest: embedding_origin(store, digest), embedding_digests))
    named = zip(embedding_digests, origins, strict=True)
    return [digest for digest, origin in named if origin and origin[0] in parts and origin[1] == encoder_digest]


def _encoders_of_runs(store: Store) -> set[str]:
    results = _run_documents(store, "result")
    return {str(result["encoder"]) for result in results.values() if "encoder" in result}


def _pinned_by_runs(store: Store) -> dict[str, str]:
    done = _run_documents(store, "result")
    starts = _run_documents(store, "start")
    return {str(start["snapshot"]): f"{name} began with it" for name, start in starts.items() if name not in done}


def _run_documents(store: Store, document: str) -> Mapping[str, Mapping[str, object]]:
    paths = {name: f"runs/{name}/{document}.json" for name in store.list("runs")}
    return {name: store.read_json(path) for name, path in paths.items() if store.exists(path)}
