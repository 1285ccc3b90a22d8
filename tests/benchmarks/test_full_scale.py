from __future__ import annotations

import argparse
import json

import numpy as np
import pytest

from benchmarks import full_scale
from benchmarks.clustered import ClusteredEmbeddings
from benchmarks.memory_watch import MemoryWatch, process_tree
from benchmarks.synthetic_store import make_corpus, make_embeddings, uids
from realm_core.storage.block_store import load_corpus
from realm_core.storage.embedding_store import embedding_path, read_embeddings
from realm_core.storage.files import Store


def test_the_store_holds_the_embeddings(tmp_path):
    store, source = Store(str(tmp_path)), ClusteredEmbeddings(num_rows=20_000, dimension=8)
    corpus = make_corpus(store, 20_000)
    assert load_corpus(store).digest == corpus.digest
    assert [part.num_rows for part in corpus.parts] == [16_384, 3_616]
    _, digests = make_embeddings(store, corpus, source)
    found = [read_embeddings(store, digest, part) for digest, part in zip(digests, corpus.parts, strict=True)]
    stored = np.concatenate([embeddings for _, embeddings in found])
    np.testing.assert_allclose(stored, source.rows(0, 20_000), rtol=2**-10, atol=2**-20)
    assert len(np.unique(np.concatenate([own for own, _ in found]))) == 20_000


def test_a_rerun_makes_only_what_is_missing(tmp_path):
    store, source = Store(str(tmp_path)), ClusteredEmbeddings(num_rows=20_000, dimension=8)
    corpus = make_corpus(store, 20_000)
    encoder, digests = make_embeddings(store, corpus, source)
    kept, missing = (store.local_file(embedding_path(digest)) for digest in digests)
    written, same = kept.stat().st_mtime_ns, missing.read_bytes()
    missing.unlink()
    assert make_embeddings(store, corpus, source) == (encoder, digests)
    assert kept.stat().st_mtime_ns == written
    assert missing.read_bytes() == same


def test_uids_are_the_same_in_any_range():
    assert (uids(0, 300)[255:260] == uids(255, 260)).all()
    assert len(np.unique(uids(0, 300))) == 300


def test_memory_is_that_of_the_processes_watched():
    with MemoryWatch(process_tree) as watch:
        ballast = np.ones(1 << 24, dtype=np.uint8)
    assert watch.peak_gb * 1e9 > ballast.nbytes


@pytest.mark.cluster
def test_a_small_corpus_goes_all_the_way(tmp_path, monkeypatch, ray_cluster, capsys):
    monkeypatch.setattr(full_scale, "LOAD_SECONDS", 0.5)
    options = argparse.Namespace(folder=tmp_path, rows=20_000, shards=2, target_recall=0.9)
    last = json.loads(json.dumps(full_scale.run(options)))
    assert last["recall_at_5"] > 0.99  # so few rows are all compared
    assert last["swap_failures"] == 0
    assert min(last["qps_vs_exact"], last["peak_build_gb"], last["peak_serve_gb"]) >= 0
    assert {"build_seconds", "queries_per_second"} <= set(last)
    assert "20,000 rows in 2 shards" in capsys.readouterr().out
