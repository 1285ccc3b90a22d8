"""Snapshots whose every file is in the store, made without an index: their shards are any bytes and a manifest.

For what looks after files: verification, publishing, comparison, garbage collection.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
from support.snapshots import synthetic_corpus

from realm_core.index.gate import GateReport
from realm_core.index.known_queries import QUERIES_NAME, RELEVANCES_NAME
from realm_core.index.tuning import SettingMeasurement
from realm_core.storage.block_store import read_part
from realm_core.storage.digests import digest_of, fixed_binary_to_numpy
from realm_core.storage.embedding_store import EmbeddingSpec, embedding_path, write_embeddings
from realm_core.storage.encoder_store import encoder_path, has_encoder
from realm_core.storage.snapshots import ShardEntry, SnapshotManifest, publish, shard_path

DIMENSION = 8
SHARD_FILES = {"description.json": b'{"kind": "faiss"}', "index.bin": b"", QUERIES_NAME: b"q", RELEVANCES_NAME: b"r"}

POINT = SettingMeasurement(
    leaf_fraction=0.125,
    num_reordered=200,
    recall_at_1=0.98,
    recall_at_5=0.97,
    recall_at_10=0.95,
    cost_microseconds=30.0,
    queries_per_second_per_core=28_354.2,
)
"""The chosen setting, as it was measured."""
OTHER_POINT = replace(POINT, leaf_fraction=0.0625, recall_at_5=0.9, queries_per_second_per_core=66_379.6)


class WholeStore:
    """A corpus, and snapshots of it; `store` may be on a disk or an object store."""

    def __init__(self, store, folder, num_blocks=60, num_parts=3):
        self.store = store
        self._folder = folder
        self.corpus = self.ingest(range(num_blocks), num_parts)

    def ingest(self, numbers, num_parts=3):
        """Makes a corpus of these blocks current."""
        self.corpus = synthetic_corpus(self.store, self._folder, numbers, num_parts)
        return self.corpus

    def embed(self, part, encoder_digest, change=lambda rows: rows, precision="fp32"):
        """Writes the embeddings of a part, after `change`; returns their digest."""
        spec = EmbeddingSpec(encoder_digest=encoder_digest, precision=precision)
        uids = fixed_binary_to_numpy(read_part(self.store, part, ["uid"])["uid"])
        rng = np.random.default_rng(int(digest_of(part.digest, encoder_digest)[:8], 16))
        rows = rng.normal(size=(part.num_rows, DIMENSION)).astype(np.float32)
        write_embeddings(self.store, spec, part, uids, change(rows))
        return spec.digest(part.digest)

    def make(self, step, encoder_digest=None, num_shards=2, recall=0.97):
        """The manifest of a snapshot whose files are in the store."""
        encoder_digest = encoder_digest or f"encoder-{step}"
        if not has_encoder(self.store, encoder_digest):
            self.put_fake_encoder(encoder_digest)
        digests = [self.embed(part, encoder_digest) for part in self.corpus.parts]
        gate = GateReport()
        gate.check("recall@5", found=recall, expected=">= 0.95", passed=recall >= 0.95)
        return SnapshotManifest(
            corpus_digest=self.corpus.digest,
            encoder_digest=encoder_digest,
            encoder_step=step,
            precision="fp32",
            dimension=DIMENSION,
            index_spec={"kind": "faiss"},
            search_setting=POINT.setting.to_json(),
            tuning=[OTHER_POINT.to_json(), POINT.to_json()],
            shards=tuple(self._shards(digests, num_shards)),
            embedding_digests=tuple(digests),
            encoder_saved_at_seconds=1000.0 + step,
            gate=gate.to_json(),
        )

    def publish(self, step, **options):
        """Returns the id."""
        return publish(self.store, self.make(step, **options))

    def put_fake_encoder(self, digest):
        """Files in the place of an encoder, which nothing can load."""
        self.store.write_bytes(f"{encoder_path(digest)}/model.safetensors", digest.encode() * 10)
        self.store.write_json(f"{encoder_path(digest)}/config.json", {})

    def _shards(self, embedding_digests, num_shards):
        for group in np.array_split(np.arange(len(self.corpus.parts)), num_shards):
            digest = digest_of([embedding_digests[i] for i in group])
            num_rows = sum(self.corpus.parts[i].num_rows for i in group)
            files = {**SHARD_FILES, "index.bin": digest.encode() * 50}
            for name, data in files.items():
                self.store.write_bytes(f"{shard_path(digest)}/{name}", data)
            manifest = {
                "num_rows": num_rows,
                "sizes_bytes": {name: len(data) for name, data in files.items()},
                "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
            }
            self.store.write_json(f"{shard_path(digest)}/shard.json", manifest)
            yield ShardEntry(
                digest=digest,
                num_rows=num_rows,
                first_block_id=self.corpus.parts[group[0]].first_block_id,
                kind="faiss",
                num_bytes=sum(map(len, files.values())),
            )


def files_of(manifest):
    """Paths of one shard's index and one part's embeddings of a snapshot."""
    return f"{shard_path(manifest.shards[0].digest)}/index.bin", embedding_path(manifest.embedding_digests[0])


def flip_byte(path, offset=100):
    """Changes one byte of a local file in place."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(bytes(data))
