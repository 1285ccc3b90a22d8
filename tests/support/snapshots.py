"""A store filled without an encoder: synthetic blocks, random embeddings, real index shards and snapshots."""

from __future__ import annotations

import numpy as np

from realm_core.index.gate import GateReport
from realm_core.index.setting import DEFAULT_SETTING
from realm_core.index.shard_building import build_shard
from realm_core.index.shards import plan_shards
from realm_core.index.specs import IndexSpec
from realm_core.records import Block
from realm_core.storage.block_store import CorpusManifest, read_part, save_corpus
from realm_core.storage.corpus_writer import CorpusWriter
from realm_core.storage.digests import fixed_binary_to_numpy
from realm_core.storage.embedding_store import EmbeddingSpec, write_embeddings
from realm_core.storage.files import Store
from realm_core.storage.snapshots import SnapshotManifest, publish

DIMENSION = 16


class SyntheticStore:
    def __init__(self, folder, num_blocks=400, num_parts=4):
        self.store = Store(str(folder / "store"))
        self.corpus = synthetic_corpus(self.store, folder, range(num_blocks), num_parts)

    def embeddings(self, seed):
        """[num_blocks, DIMENSION], by block id."""
        rng = np.random.default_rng(seed)
        return rng.normal(size=(self.corpus.num_blocks, DIMENSION)).astype(np.float32)

    def write(self, embeddings, encoder_digest):
        """The embedding files of all parts; returns their digests."""
        spec = EmbeddingSpec(encoder_digest=encoder_digest, precision="fp32")
        for part in self.corpus.parts:
            uids = fixed_binary_to_numpy(read_part(self.store, part, ["uid"])["uid"])
            rows = embeddings[part.first_block_id : part.first_block_id + part.num_rows]
            write_embeddings(self.store, spec, part, uids, rows)
        return [spec.digest(part.digest) for part in self.corpus.parts]

    def publish(self, seed, step, num_shards=2):
        embeddings = self.embeddings(seed)
        digests = self.write(embeddings, f"encoder-{seed}")
        plans = plan_shards(self.corpus.parts, digests, num_shards=num_shards, spec=IndexSpec())
        shards = [build_shard(self.store, plan, embeddings[:8], num_hits=10) for plan in plans]
        manifest = SnapshotManifest(
            corpus_digest=self.corpus.digest,
            encoder_digest=f"encoder-{seed}",
            encoder_step=step,
            precision="fp32",
            dimension=DIMENSION,
            index_spec={"kind": "auto"},
            search_setting=DEFAULT_SETTING.to_json(),
            tuning=[],
            shards=tuple(shard.entry for shard in shards),
            embedding_digests=tuple(digests),
            encoder_saved_at_seconds=0.0,
            gate=GateReport().to_json(),
        )
        publish(self.store, manifest)
        return manifest


def synthetic_corpus(store, folder, numbers, num_parts):
    """Makes a corpus of the blocks of these numbers current."""
    spill = folder / f"spill-{len(list(folder.iterdir()))}"
    spill.mkdir()
    writer = CorpusWriter(store, num_parts=num_parts, spill_folder=spill)
    for number in numbers:
        writer.add([synthetic_block(number)])
    written = writer.finish()
    corpus = CorpusManifest(
        parts=written.parts,
        tokenizer_digest="synthetic",
        max_block_tokens=288,
        uid_digest=written.uid_digest,
        source="synthetic",
        counts={},
    )
    save_corpus(store, corpus)
    return corpus


def synthetic_block(number):
    return Block(
        document_id=f"d{number // 5}",
        title=f"title {number // 5}",
        body=f"body {number}",
        title_token_ids=(number // 5 + 10,),
        body_token_ids=(7, number),
        sentence_starts=(0,),
    )


def exact_block_ids(embeddings, queries, num_hits):
    scores = queries @ embeddings.T
    return np.argsort(-scores, axis=1, kind="stable")[:, :num_hits]
