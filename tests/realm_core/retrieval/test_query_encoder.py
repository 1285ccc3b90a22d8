import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from realm_core.errors import EncoderError, ServiceUnavailableError
from realm_core.modeling.checkpoints import load_encoder, tokenizer_digest
from realm_core.retrieval.query_encoder import MAX_SWAPS_DURING_A_SEARCH, QueryEncoder
from realm_core.retrieval.snapshot_search import SearchResult
from realm_core.storage.block_store import CorpusManifest, PartEntry, save_corpus
from realm_core.storage.encoder_store import put_encoder
from realm_core.storage.files import Store
from realm_core.storage.snapshots import SnapshotManifest


class Search:
    """Answers from the snapshots in turn; remembers the queries that it was asked."""

    def __init__(self, manifests, answers):
        self.manifests = manifests
        self.answers = list(answers)
        self.live = 0
        self.asked = []

    def live_snapshot(self, *, deadline_seconds=30.0):
        return self.manifests[self.live]

    def search(self, queries_BD, num_hits, *, deadline_seconds=30.0, exclude_uids=None):
        self.asked.append(queries_BD)
        self.live = self.answers.pop(0)
        hits = np.zeros((len(queries_BD), num_hits))
        return SearchResult(hits, hits.astype(int), self.manifests[self.live].snapshot_id, self.live)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tiny_bert):
    store = Store(str(tmp_path_factory.mktemp("store")))
    encoders = [load_encoder(tiny_bert, seed=seed) for seed in (0, 1)]
    corpus = CorpusManifest(
        parts=(PartEntry(digest="p", num_rows=1, num_tokens=1, first_block_id=0),),
        tokenizer_digest=tokenizer_digest(encoders[0].tokenizer),
        max_block_tokens=64,
        uid_digest="u",
        source="s",
        counts={},
    )
    save_corpus(store, corpus)
    digests = [put_encoder(store, encoder) for encoder in encoders]
    manifests = [
        SnapshotManifest(
            corpus_digest=corpus.digest, encoder_digest=digest, encoder_step=step, precision="fp32", dimension=128,
            index_spec={}, search_setting={}, tuning=[], shards=(),
            embedding_digests=(), encoder_saved_at_seconds=0.0, gate={},
        )
        for step, digest in enumerate(digests)
    ]  # fmt: skip
    return store, manifests


def test_a_query_that_met_a_swap_is_encoded_again_with_the_new_encoder(prepared):
    store, manifests = prepared
    search = Search(manifests, answers=[1, 1])
    result = QueryEncoder(store, search).search_text(["the bridge of Redcliff"], 3)
    assert result.snapshot_id == manifests[1].snapshot_id
    assert len(search.asked) == 2
    assert not np.allclose(search.asked[0], search.asked[1])
    direct = Search(manifests[1:], answers=[0])
    QueryEncoder(store, direct).search_text(["the bridge of Redcliff"], 3)
    np.testing.assert_array_equal(direct.asked[0], search.asked[1])


def test_swaps_without_end_are_an_error(prepared):
    store, manifests = prepared
    search = Search(manifests, answers=[1, 0] * MAX_SWAPS_DURING_A_SEARCH)
    with pytest.raises(ServiceUnavailableError, match="changed 8 times"):
        QueryEncoder(store, search).search_text(["tower"], 1)


def test_an_encoder_with_another_vocabulary_is_refused(prepared, tmp_path):
    store, manifests = prepared
    other = CorpusManifest(
        parts=(PartEntry(digest="p", num_rows=1, num_tokens=1, first_block_id=0),),
        tokenizer_digest="another",
        max_block_tokens=64,
        uid_digest="u",
        source="s",
        counts={},
    )
    store.write_json(f"corpora/{other.digest}.json", other.to_json())
    manifest = dataclasses.replace(manifests[0], corpus_digest=other.digest)
    with pytest.raises(EncoderError, match="expected tokenizer another"):
        QueryEncoder(store, Search([manifest], answers=[0])).search_text(["tower"], 1)


def test_threads_search_at_the_same_time(prepared):
    store, manifests = prepared
    both = threading.Barrier(2, timeout=30)

    class Meeting(Search):
        def search(self, *arguments, **options):
            both.wait()  # breaks, and so fails, where one search waits for the other to end
            return super().search(*arguments, **options)

    encoder = QueryEncoder(store, Meeting(manifests[:1], answers=[0, 0]))
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda text: encoder.search_text([text], 2), ["tower", "river"]))
    assert [result.snapshot_id for result in results] == [manifests[0].snapshot_id] * 2


def test_the_time_that_encoding_takes_is_the_caller_s(prepared):
    store, manifests = prepared
    seen = []

    class Timed(Search):
        def search(self, queries_BD, num_hits, *, deadline_seconds=30.0, exclude_uids=None):
            seen.append(deadline_seconds)
            return super().search(queries_BD, num_hits)

    QueryEncoder(store, Timed(manifests[:1], answers=[0])).search_text(["tower"], 1, deadline_seconds=20.0)
    assert 0 < seen[0] < 20.0
