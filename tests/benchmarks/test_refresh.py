from dataclasses import replace

import numpy as np
import pytest

from benchmarks.clustered import ClusteredEmbeddings
from benchmarks.refresh import Refreshed, summary_of
from benchmarks.refresh_store import ClusteredLoader, write_corpus
from realm_core.engines.part_embedder import PartEmbedder
from realm_core.storage.block_store import BlockRecords, read_part
from realm_core.storage.digests import digest_of_uids, fixed_binary_to_numpy
from realm_core.storage.embedding_store import read_embeddings
from realm_core.storage.files import Store

NUM_ROWS = 40_000
EMBEDDINGS = ClusteredEmbeddings(num_rows=NUM_ROWS, dimension=16)


@pytest.fixture(scope="module")
def corpus_of(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("refresh") / "store"))
    return store, write_corpus(store, NUM_ROWS, rows_per_part=16_384)


def test_blocks_are_numbers_and_their_records_are_whole(corpus_of):
    store, corpus = corpus_of
    records = BlockRecords(store, corpus)
    assert len(records) == NUM_ROWS
    assert records.token_ids(39_999) == ([], [1, 39_999 - 32_768])
    uids = [fixed_binary_to_numpy(read_part(store, part, ["uid"])["uid"]) for part in corpus.parts]
    assert digest_of_uids(np.concatenate(uids)) == corpus.uid_digest


def test_the_engine_gives_each_block_its_row_moved_a_little_by_each_step(corpus_of):
    store, corpus = corpus_of
    embedder = PartEmbedder(store, ClusteredLoader(embeddings=EMBEDDINGS, seconds_per_row=0.0), "fp32")
    done = [embedder.embed(corpus.parts[1], f"step-{step}") for step in (1, 2)]
    first, second = [read_embeddings(store, one.embedding_digest, corpus.parts[1])[1] for one in done]
    rows = EMBEDDINGS.rows(16_384, 32_768)
    for found in (first, second):
        assert 0 < np.abs(found - rows).mean() < 0.1
    assert not np.array_equal(first, second)


def test_a_query_is_in_the_cluster_of_its_block():
    without_noise = replace(EMBEDDINGS, noise=0.0)
    engine = ClusteredLoader(embeddings=without_noise, seconds_per_row=0.0).load(None, "step-1", "fp32")
    row = 32_768 + 7
    assert np.array_equal(engine.encode_queries([[1, 7]]), without_noise.rows(row, row + 1))


def refreshed(embed, total):
    at_last = {"index": 2.0, "gate": 1.0, "publish": 0.5, "swap": total - embed - 3.5}
    record = {
        "seconds": {"embed": embed, **at_last},
        "seconds_after_embedding": at_last,
        "recall_at": {"recall@5": 0.95},
        "overlap_at_10": 0.8,
    }
    return Refreshed(record=record, total_seconds=total, own_cpu_share=0.5, busy_cpu_share=0.6)


def test_the_last_line_is_that_of_the_refresh_with_the_median_share():
    summary = summary_of([refreshed(90.0, 120.0), refreshed(90.0, 100.0), refreshed(95.0, 100.0)])
    assert summary["non_embed_share"] == pytest.approx(0.1)
    assert summary["non_embed_shares"] == [0.25, 0.1, 0.05]
    assert summary["after_embedding"]["swap"] == pytest.approx(6.5)
    assert sum(summary["after_embedding"].values()) + summary["stages"]["embed"] == pytest.approx(100.0)
