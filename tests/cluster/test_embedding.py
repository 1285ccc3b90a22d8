import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from support.tiny import write_corpus

from cluster.embedding import EmbeddingPool
from cluster.resources import plan_resources
from pipelines.encoders import take_in_encoder
from pipelines.ingest import IngestConfig, run_ingest
from realm_core.errors import ArtifactMissingError
from realm_core.storage.block_store import load_corpus, part_path, read_part
from realm_core.storage.digests import fixed_binary_to_numpy
from realm_core.storage.embedding_store import embedding_path, read_embeddings
from realm_core.storage.files import Store

pytestmark = pytest.mark.cluster

PLAN = plan_resources(num_cpus=2, num_gpus=0, embedding_workers=2, trainer_workers=0, precision="fp32")


@pytest.fixture
def ingested(ray_cluster, tmp_path, tiny_bert):
    """A store with some 1,500 blocks in 3 parts, and an encoder."""
    source = write_corpus(tmp_path / "many.jsonl", num_documents=300, sentences=40)
    store = Store(str(tmp_path / "store"))
    config = IngestConfig(
        store=store.url, source=str(source), encoder=str(tiny_bert), max_block_tokens=160, num_parts=3
    )
    run_ingest(config)
    return store, load_corpus(store), take_in_encoder(store, str(tiny_bert), load_corpus(store)).digest


@pytest.fixture
def pool(ingested):
    pool = EmbeddingPool(ingested[0].url, PLAN)
    yield pool
    pool.close()


def uids_in_embeddings(store, corpus, result):
    pairs = zip(result.parts, corpus.parts, strict=True)
    return np.concatenate([read_embeddings(store, done.embedding_digest, part)[0] for done, part in pairs])


def assert_each_block_once(store, corpus, result):
    expected = np.concatenate([fixed_binary_to_numpy(read_part(store, p, ["uid"])["uid"]) for p in corpus.parts])
    found = uids_in_embeddings(store, corpus, result)
    assert found.tobytes() == expected.tobytes()
    assert len(set(found.tolist())) == corpus.num_blocks


def embedding_bytes(store, result):
    return [store.read_bytes(embedding_path(part.embedding_digest)) for part in result.parts]


def embedding_actors():
    found = psutil.process_iter(["pid", "cmdline"])
    return [p.pid for p in found if p.info["cmdline"] and p.info["cmdline"][0].startswith("ray::EmbeddingWorker")]


def is_at_work(pid):
    """Ray names a process after the method that it runs."""
    try:
        return b".embed" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


def wait_for_actors(pool, encoder):
    pool.encode_queries([[7, 8]], encoder)  # the first actor has loaded the encoder
    deadline = time.monotonic() + 60
    while len(embedding_actors()) < PLAN.embedding_workers and time.monotonic() < deadline:
        time.sleep(0.1)
    return embedding_actors()


def test_an_actor_killed_in_mid_part_loses_and_doubles_nothing(ingested, pool, tmp_path):
    store, corpus, encoder = ingested
    killed, actors = [], wait_for_actors(pool, encoder)

    def kill_one_at_work():
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for pid in actors:
                if is_at_work(pid) and not store.list("embeddings"):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    return
            time.sleep(0.001)

    thread = threading.Thread(target=kill_one_at_work)
    thread.start()
    result = pool.embed(corpus.parts, encoder, poll_seconds=0.1)
    thread.join()
    assert killed, "no actor was caught at work: the corpus is too small for this machine"
    assert result.num_retries >= 1
    assert_each_block_once(store, corpus, result)
    undisturbed = embedding_bytes(store, result)
    for part in result.parts:
        store.remove(embedding_path(part.embedding_digest))
    assert embedding_bytes(store, pool.embed(corpus.parts, encoder)) == undisturbed


def test_a_rerun_makes_only_what_is_missing_or_damaged(ingested, pool):
    store, corpus, encoder = ingested
    first = pool.embed(corpus.parts, encoder)
    before = embedding_bytes(store, first)
    assert (first.num_reused, first.num_rows) == (0, corpus.num_blocks)
    assert pool.embed(corpus.parts, encoder).num_reused == len(corpus.parts)
    store.remove(embedding_path(first.parts[0].embedding_digest))
    store.write_bytes(embedding_path(first.parts[1].embedding_digest), before[1][:-100])
    again = pool.embed(corpus.parts, encoder)
    assert [part.was_reused for part in again.parts] == [False, False, True]
    assert embedding_bytes(store, again) == before


def test_a_part_that_cannot_be_read_stops_the_run_by_name_and_the_others_are_kept(ingested, pool):
    store, corpus, encoder = ingested
    store.remove(part_path(corpus.parts[0].digest))
    with pytest.raises(ArtifactMissingError, match=corpus.parts[0].digest):
        pool.embed(corpus.parts, encoder)
    assert len(store.list("embeddings")) >= 1
    assert all(pq.read_metadata(store.local_file(f"embeddings/{name}")) for name in store.list("embeddings"))


def test_progress_ends_at_the_number_of_rows(ingested, pool):
    _, corpus, encoder = ingested
    seen = []
    pool.embed(corpus.parts, encoder, progress=seen.append, poll_seconds=0.05)
    assert seen[-1] == corpus.num_blocks
    assert all(0 <= rows <= corpus.num_blocks for rows in seen)
