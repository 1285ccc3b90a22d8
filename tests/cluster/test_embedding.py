"""The pool from outside: each row once and the same bytes as in an undisturbed run, whatever happens to actors."""

import os
import random
import signal
import threading
import time

import numpy as np
import pytest
from support.processes import embedding_actors, is_embedding, kill
from support.snapshots import SyntheticStore
from support.stand_in_engines import DIMENSION, StandInLoader
from support.tiny import write_corpus

from cluster.embedding import EmbeddingPool
from cluster.embedding_run import MAX_HOPELESS_PARTS
from cluster.resources import EmbeddingPlan
from pipelines.configs.ingest import IngestConfig
from pipelines.encoders import store_encoder
from pipelines.ingest import run_ingest
from realm_core.engines.completeness import check_embedded
from realm_core.engines.loading import StoreEngineLoader
from realm_core.engines.part_embedder import PartEmbedder
from realm_core.engines.part_queue import MAX_DEATHS_PER_PART
from realm_core.errors import (
    ArtifactMissingError,
    BlockError,
    DeadlineExceededError,
    EncoderError,
    ServiceError,
    ServiceUnavailableError,
)
from realm_core.storage.block_store import load_corpus, part_path, read_part
from realm_core.storage.digests import fixed_binary_to_numpy
from realm_core.storage.embedding_store import embedding_path, read_embeddings
from realm_core.storage.files import Store

pytestmark = pytest.mark.cluster

ENCODER = "e" * 64
BAD_TOKEN = 333
"""Only one block has it."""
IN_EVERY_BLOCK = 7


def plan(num_workers):
    return EmbeddingPlan(num_workers=num_workers, cpus=0.25, gpus=0.0, threads=1)


@pytest.fixture
def filled(ray_cluster, tmp_path):
    """400 synthetic blocks in up to 40 parts."""
    return SyntheticStore(tmp_path, num_blocks=400, num_parts=40)


@pytest.fixture
def pools():
    """Makes pools and closes them."""
    made = []

    def make(store, loader, num_workers=2, precision="fp32"):
        made.append(EmbeddingPool(store.url, plan(num_workers), loader, precision=precision))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def assert_each_block_once(store, corpus, result):
    pairs = list(zip(result.parts, corpus.parts, strict=True))
    found = np.concatenate([read_embeddings(store, done.embedding_digest, part)[0] for done, part in pairs])
    expected = np.concatenate([fixed_binary_to_numpy(read_part(store, p, ["uid"])["uid"]) for p in corpus.parts])
    assert found.tobytes() == expected.tobytes()
    assert len(set(found.tolist())) == corpus.num_blocks
    assert check_embedded(corpus, result.parts).passed
    assert result.num_made + result.num_reused == len(corpus.parts)
    assert all(part.uids.flags.owndata for part in result.parts), "13 million uids would fill Ray's object store"


def embedding_bytes(store):
    return {name: store.read_bytes(f"embeddings/{name}") for name in store.list("embeddings")}


def undisturbed_bytes(filled, folder):
    """What one worker without Ray makes, in a store of its own."""
    folder.mkdir()
    other = SyntheticStore(folder, num_blocks=400, num_parts=40)
    worker = PartEmbedder(other.store, StandInLoader(), "fp32")
    for part in other.corpus.parts:
        worker.embed(part, ENCODER)
    return embedding_bytes(other.store)


class Killer(threading.Thread):
    """Kills one after the other of this process's embedding actors that are at work, at random moments."""

    def __init__(self, num_kills, seed=0):
        super().__init__(daemon=True)
        self._num_kills, self._rng = num_kills, random.Random(seed)
        self._is_over = threading.Event()
        self.num_killed = 0

    def run(self):
        while self.num_killed < self._num_kills and not self._is_over.wait(self._rng.uniform(0.01, 0.1)):
            at_work = [pid for pid in embedding_actors() if is_embedding(pid)]
            if at_work:
                self.num_killed += kill(self._rng.choice(at_work))

    def end(self):
        self._is_over.set()
        self.join()


def test_twenty_random_kills_lose_and_double_nothing(filled, pools, tmp_path):
    killer = Killer(num_kills=20)
    killer.start()
    pool = pools(filled.store, StandInLoader(seconds_per_row=0.05), num_workers=3)
    result = pool.embed(filled.corpus.parts, ENCODER)
    killer.end()
    assert killer.num_killed == 20, "the run was over before"
    assert result.num_retries >= 10
    assert_each_block_once(filled.store, filled.corpus, result)
    assert embedding_bytes(filled.store) == undisturbed_bytes(filled, tmp_path / "undisturbed")


def test_the_parts_of_an_actor_that_was_stopped_are_given_to_others(filled, pools, monkeypatch):
    monkeypatch.setattr("cluster.embedding_workers.SILENT_SECONDS", 1.0)
    pool = pools(filled.store, StandInLoader(seconds_per_row=0.05), num_workers=2)
    stopped = []

    def stop_one(_):
        at_work = [pid for pid in embedding_actors() if is_embedding(pid)]
        if at_work and not stopped:
            os.kill(at_work[0], signal.SIGSTOP)
            stopped.append(at_work[0])

    try:
        result = pool.embed(filled.corpus.parts, ENCODER, progress=stop_one, poll_seconds=0.2)
        assert result.num_retries >= 1
        assert_each_block_once(filled.store, filled.corpus, result)
    finally:
        for pid in stopped:
            kill(pid)


def test_a_rerun_makes_only_what_is_missing_or_damaged(filled, pools):
    store, corpus = filled.store, filled.corpus
    pool = pools(store, StandInLoader())
    first = pool.embed(corpus.parts, ENCODER)
    before = embedding_bytes(store)
    assert (first.num_made, first.num_reused, first.num_rows) == (len(corpus.parts), 0, 400)
    assert first.work.num_rows == 400
    again = pool.embed(corpus.parts, ENCODER)
    assert (again.num_made, again.num_reused, again.work.num_rows) == (0, len(corpus.parts), 0)
    paths = [embedding_path(part.embedding_digest) for part in first.parts]
    store.remove(paths[0])
    truncated, flipped = store.read_bytes(paths[1])[:-100], bytearray(store.read_bytes(paths[2]))
    flipped[len(flipped) // 2] ^= 1
    store.write_bytes(paths[1], truncated)
    store.write_bytes(paths[2], bytes(flipped))
    mended = pool.embed(corpus.parts, ENCODER)
    assert [part.outcome for part in mended.parts[:4]] == ["made", "mended", "mended", "reused"]
    assert (mended.num_made, mended.num_mended) == (3, 2)
    assert_each_block_once(store, corpus, mended)
    assert embedding_bytes(store) == before


def test_progress_is_that_of_the_run_and_ends_at_all_rows(filled, pools):
    seen = []
    pool = pools(filled.store, StandInLoader(seconds_per_row=0.01))
    pool.embed(filled.corpus.parts, ENCODER, progress=seen.append, poll_seconds=0.1)
    rows = [progress.rows_done for progress in seen]
    assert rows[-1] == 400
    assert rows == sorted(rows)
    assert len(set(rows)) > 3
    assert max(progress.rows_per_second for progress in seen) > 0
    assert 0 < seen[-1].share_of_peak < 1
    assert seen[-1].num_ready <= seen[-1].num_asked_for == 2
    seen.clear()
    pool.embed(filled.corpus.parts, ENCODER, progress=seen.append, poll_seconds=0.01)
    assert seen[-1].rows_done == 400
    assert {progress.rows_per_second for progress in seen} == {0.0}, "reused rows are no work"


@pytest.mark.parametrize("fault", ["fails_at", "makes_nan_of"])
def test_a_block_that_cannot_be_embedded_is_named_when_all_other_parts_are_done(filled, pools, fault):
    with pytest.raises(BlockError) as raised:
        pools(filled.store, StandInLoader(**{fault: BAD_TOKEN})).embed(filled.corpus.parts, ENCODER)
    num_parts = len(filled.corpus.parts)
    assert f"1 failed, 1 blocks that cannot be embedded, {num_parts - 1} are done" in str(raised.value)
    assert f"“title {BAD_TOKEN // 5}”" in str(raised.value)
    assert raised.value.exit_code == 1
    assert len(filled.store.list("embeddings")) == num_parts - 1
    after_mending = pools(filled.store, StandInLoader()).embed(filled.corpus.parts, ENCODER)
    assert (after_mending.num_made, after_mending.num_reused) == (1, num_parts - 1)
    assert_each_block_once(filled.store, filled.corpus, after_mending)


def test_an_encoder_that_embeds_nothing_is_not_tried_on_every_part(filled, pools):
    with pytest.raises(EncoderError, match="NaN") as raised:
        pools(filled.store, StandInLoader(makes_nan_of=IN_EVERY_BLOCK)).embed(filled.corpus.parts, ENCODER)
    assert f"{MAX_HOPELESS_PARTS} parts one after the other" in str(raised.value)
    assert len(filled.corpus.parts) > MAX_HOPELESS_PARTS
    assert not filled.store.list("embeddings")


def test_parts_that_cannot_be_read_are_named_when_all_others_are_done(filled, pools):
    lost = filled.corpus.parts[: MAX_HOPELESS_PARTS + 2]
    for part in lost:
        filled.store.remove(part_path(part.digest))
    with pytest.raises(ArtifactMissingError) as raised:
        pools(filled.store, StandInLoader(seconds_per_row=0.05)).embed(filled.corpus.parts, ENCODER)
    assert all(part.digest in str(raised.value) for part in lost)
    assert f"{len(lost)} failed" in str(raised.value)
    assert len(filled.store.list("embeddings")) == len(filled.corpus.parts) - len(lost)


def test_a_part_that_kills_its_actors_is_named_when_all_others_are_done(filled, pools):
    with pytest.raises(ServiceUnavailableError) as raised:
        pools(filled.store, StandInLoader(dies_at=BAD_TOKEN)).embed(filled.corpus.parts, ENCODER)
    assert f"its embedding actor died {MAX_DEATHS_PER_PART} times" in str(raised.value)
    assert "1 failed" in str(raised.value)
    assert len(filled.store.list("embeddings")) == len(filled.corpus.parts) - 1


@pytest.mark.parametrize(
    ("faults", "error", "message"),
    [
        ({"cannot_load": True}, EncoderError, "no weights"),
        ({"is_random": True}, EncoderError, "evaluation mode"),
        ({"breaks": True}, ServiceError, "RuntimeError: the device is gone"),
    ],
)
def test_an_error_that_is_about_all_parts_ends_the_run_at_once(filled, pools, faults, error, message):
    pool = pools(filled.store, StandInLoader(**faults))
    with pytest.raises(error, match=message):
        pool.embed(filled.corpus.parts, ENCODER)
    assert not filled.store.list("embeddings")


def test_actors_that_never_finish_a_part_end_the_run(ray_cluster, tmp_path, pools, monkeypatch):
    """Every part kills its actor: the run ends after so many deaths in a row, not after eight of each part."""
    monkeypatch.setattr("cluster.embedding_run.MIN_DEATHS", 5)
    monkeypatch.setattr("cluster.embedding_run.DEATHS_PER_WORKER", 2)
    filled = SyntheticStore(tmp_path, num_blocks=40, num_parts=20)
    pool = pools(filled.store, StandInLoader(dies_at=IN_EVERY_BLOCK), num_workers=1)
    with pytest.raises(ServiceUnavailableError, match="died one after the other and finished no part") as raised:
        pool.embed(filled.corpus.parts, ENCODER)
    assert "5 died" in str(raised.value)


def test_actors_without_room_wait_and_hold_nothing_up(filled):
    too_large = EmbeddingPlan(num_workers=3, cpus=1.5, gpus=0.0, threads=1)
    pool = EmbeddingPool(filled.store.url, too_large, StandInLoader(), precision="fp32")
    seen = []
    result = pool.embed(filled.corpus.parts, ENCODER, progress=seen.append)
    with pytest.raises(DeadlineExceededError, match="of 3 after 1 s"):
        pool.wait_until_ready(3, timeout_seconds=1)
    pool.close()
    assert result.num_made == len(filled.corpus.parts)
    assert seen[-1].num_ready < seen[-1].num_asked_for == 3


def test_queries_are_encoded_by_another_actor_when_one_has_died(filled, pools):
    pool = pools(filled.store, StandInLoader())
    expected = pool.encode_queries([[7, 8], [9]], ENCODER)
    assert expected.shape == (2, DIMENSION)
    for pid in embedding_actors():
        kill(pid)
    assert np.array_equal(pool.encode_queries([[7, 8], [9]], ENCODER), expected)


@pytest.fixture
def ingested(ray_cluster, tmp_path, tiny_bert):
    """Some 1,500 real blocks in 3 parts, and an encoder."""
    source = write_corpus(tmp_path / "many.jsonl", num_documents=300, sentences=40)
    store = Store(str(tmp_path / "store"))
    config = IngestConfig(
        store=store.url, source=str(source), encoder=str(tiny_bert), max_block_tokens=160, num_parts=3
    )
    run_ingest(config)
    return store, load_corpus(store), store_encoder(store, str(tiny_bert), load_corpus(store)).digest


def test_a_real_encoder_killed_in_mid_part_gives_the_same_bytes(ingested, pools):
    store, corpus, encoder = ingested
    pool = pools(store, StoreEngineLoader(threads=1))
    pool.wait_until_ready(2)
    killed = []

    def kill_one_at_work():
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            killed.extend(pid for pid in embedding_actors() if is_embedding(pid) and kill(pid))
            time.sleep(0.01)

    thread = threading.Thread(target=kill_one_at_work)
    thread.start()
    result = pool.embed(corpus.parts, encoder)
    thread.join()
    assert killed
    assert result.num_retries >= 1
    assert_each_block_once(store, corpus, result)
    disturbed = embedding_bytes(store)
    for part in result.parts:
        store.remove(embedding_path(part.embedding_digest))
    pool.embed(corpus.parts, encoder)
    assert embedding_bytes(store) == disturbed
