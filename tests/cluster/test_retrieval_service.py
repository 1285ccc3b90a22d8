import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.processes import actors
from support.snapshots import DIMENSION, SyntheticStore, exact_block_ids

from cluster.retrieval_service import (
    RetrievalClient,
    service_is_running,
    service_left_as_found,
    start_service,
    stop_service,
)
from realm_core.errors import ArtifactCorruptError, QueryError, ServiceUnavailableError, StoreError
from realm_core.storage.snapshots import shard_path

pytestmark = pytest.mark.cluster


def queries(count=6, seed=9):
    return np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)


def test_sharded_search_equals_exact_search(service, synthetic_store):
    result = service.search(queries(), 7)
    expected = exact_block_ids(synthetic_store.embeddings(0), queries(), 7)
    np.testing.assert_array_equal(result.block_ids_BK, expected)
    assert (np.diff(result.relevances_BK, axis=1) <= 0).all()
    assert result.encoder_step == 0


@pytest.mark.parametrize(
    ("bad", "num_hits", "message"),
    [
        (np.full((1, DIMENSION), np.nan, np.float32), 3, "NaN"),
        (np.ones((1, DIMENSION + 1), np.float32), 3, str(DIMENSION + 1)),
        (np.ones((1, DIMENSION), np.float32), 0, "0"),
    ],
)
def test_a_bad_query_is_refused_and_the_service_goes_on(service, bad, num_hits, message):
    with pytest.raises(QueryError, match=message):
        service.search(bad, num_hits)
    assert service.search(queries(), 3).block_ids_BK.shape == (6, 3)


def test_more_hits_than_blocks_are_padded(service, synthetic_store):
    num_blocks = synthetic_store.corpus.num_blocks
    result = service.search(queries(1), num_blocks + 5)
    assert sorted(result.block_ids_BK[0, :num_blocks]) == list(range(num_blocks))
    assert (result.block_ids_BK[0, num_blocks:] == -1).all()


def test_an_empty_batch_finds_nothing(service):
    assert service.search(np.zeros((0, DIMENSION), np.float32), 3).block_ids_BK.shape == (0, 3)


def test_swaps_under_load_fail_no_search_and_mix_no_snapshots(service, synthetic_store):
    manifests = {m.snapshot_id: seed for seed, m in ((s, synthetic_store.publish(seed=s, step=s)) for s in (1, 2))}
    manifests[service.live_snapshot().snapshot_id] = 0
    expected = {i: exact_block_ids(synthetic_store.embeddings(s), queries(), 5) for i, s in manifests.items()}
    stop, errors, seen = threading.Event(), [], []

    def search():
        while not stop.is_set():
            try:
                result = service.search(queries(), 5)
                np.testing.assert_array_equal(result.block_ids_BK, expected[result.snapshot_id])
                seen.append(result.snapshot_id)
            except Exception as error:  # noqa: BLE001 - any failure counts
                errors.append(error)
                return

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for snapshot_id in manifests:
        service.swap(snapshot_id)
        time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert set(seen) == set(manifests)
    status = service.status()
    assert status.num_failed_searches == 0
    assert status.num_searches == len(seen)


def test_a_swap_to_the_live_snapshot_does_nothing(service):
    live = service.live_snapshot().snapshot_id
    assert service.swap(live).was_live_already
    assert service.status().num_swaps == 0


def test_a_snapshot_that_is_damaged_or_unknown_does_not_go_live(service, synthetic_store):
    live = service.live_snapshot().snapshot_id
    damaged = synthetic_store.publish(seed=3, step=3)
    folder = synthetic_store.store.local_folder(shard_path(damaged.shards[1].digest))
    largest = max((p for p in folder.iterdir() if p.suffix != ".json"), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    with pytest.raises(ArtifactCorruptError, match=r"sha256 .* expected sha256"):
        service.swap(damaged.snapshot_id)
    with pytest.raises(StoreError, match="no snapshot nope"):
        service.swap("nope")
    assert service.live_snapshot().snapshot_id == live
    assert service.search(queries(), 3).snapshot_id == live


def test_a_killed_shard_comes_back_and_no_search_fails(service, synthetic_store):
    os.kill(actors("ShardServer")[0], signal.SIGKILL)
    result = service.search(queries(), 5, deadline_seconds=60.0)
    np.testing.assert_array_equal(result.block_ids_BK, exact_block_ids(synthetic_store.embeddings(0), queries(), 5))


def test_starting_twice_attaches(service, synthetic_store):
    service.search(queries(), 3)
    again = start_service(synthetic_store.store)
    assert again.status().num_searches == 1
    assert RetrievalClient.connect().status().num_searches == 1


def test_without_a_service_the_error_says_how_to_start_one(ray_cluster):
    with pytest.raises(ServiceUnavailableError, match="realm serve"):
        RetrievalClient.connect()


def test_a_run_ends_the_service_that_it_started_also_when_it_fails(ray_cluster, synthetic_store):
    synthetic_store.publish(seed=0, step=0)
    with pytest.raises(ZeroDivisionError), service_left_as_found():
        start_service(synthetic_store.store)
        raise ZeroDivisionError
    assert not service_is_running()


def test_a_run_leaves_a_service_that_ran_before_it(service, synthetic_store):
    with service_left_as_found():
        start_service(synthetic_store.store)
    assert service.search(queries(), 3).block_ids_BK.shape == (6, 3)


def test_a_client_finds_the_service_that_was_started_in_the_place_of_the_one_it_knew(service, synthetic_store):
    service.search(queries(), 3)
    stop_service()
    assert not service_is_running()
    with pytest.raises(ServiceUnavailableError, match="no router"):
        service.search(queries(), 3, deadline_seconds=2.0)
    newer = synthetic_store.publish(seed=1, step=1).snapshot_id
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(service.search, queries(), 3, deadline_seconds=600.0)
        start_service(synthetic_store.store)
        assert waiting.result().snapshot_id == newer
    assert service.live_snapshot().snapshot_id == newer
    assert service.status().num_searches == 1


def test_a_service_of_another_store_is_not_taken_for_the_one_that_was_stopped(service, tmp_path):
    stop_service()
    (tmp_path / "other").mkdir()
    other = SyntheticStore(tmp_path / "other")
    other.publish(seed=1, step=1)
    start_service(other.store)
    with pytest.raises(ServiceUnavailableError, match=r"one of store .*other"):
        service.search(queries(), 3, deadline_seconds=3.0)
    with pytest.raises(ServiceUnavailableError, match=r"one of store .*other"):
        service.status()
