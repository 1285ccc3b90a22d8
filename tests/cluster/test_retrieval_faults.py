"""Processes of the service are killed, stopped and starved while callers search."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from support.callers import Callers
from support.snapshots import DIMENSION, exact_block_ids
from support.waiting import wait_until

from cluster.retrieval_service import RetrievalClient, start_service, stop_service
from realm_core.errors import (
    ArtifactCorruptError,
    ArtifactMissingError,
    DeadlineExceededError,
    QueryError,
    ServiceUnavailableError,
    UsageError,
)
from realm_core.storage.snapshots import shard_path

pytestmark = pytest.mark.cluster


def queries(count=6, seed=9):
    return np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)


@pytest.fixture
def replicated(ray_cluster, synthetic_store):
    """Two replicas of each of two shards, two routers."""
    synthetic_store.publish(seed=0, step=0)
    client = start_service(synthetic_store.store, replicas=2, routers=2)
    yield client
    stop_service()


def pids(client, kind):
    return [pid for name, pid in sorted(client.processes().items()) if kind in name]


def test_a_replica_that_is_killed_costs_no_search_and_comes_back(replicated, synthetic_store):
    victim = pids(replicated, "shard-0-replica-1")[0]
    with Callers(replicated, {0: synthetic_store}, deadline_seconds=5.0) as callers:
        os.kill(victim, signal.SIGKILL)
        time.sleep(1.0)
        wait_until(lambda: replicated.status().is_ready and len(pids(replicated, "-shard-")) == 4)
        assert victim not in pids(replicated, "-shard-")
        time.sleep(0.3)
    callers.assert_all_right(at_least=20)


def test_a_replica_that_hangs_is_given_up_for_another_one(replicated, synthetic_store):
    victim = pids(replicated, "shard-1-replica-0")[0]
    os.kill(victim, signal.SIGSTOP)
    try:
        with Callers(replicated, {0: synthetic_store}, deadline_seconds=10.0) as callers:
            time.sleep(4.0)
        callers.assert_all_right(at_least=20)
    finally:
        os.kill(victim, signal.SIGCONT)
    wait_until(lambda: all(min(r.num_healthy_replicas) == 2 for r in replicated.status().routers))


def test_a_router_that_is_killed_costs_no_search_and_comes_back(replicated, synthetic_store):
    victim = pids(replicated, "router-0")[0]
    with Callers(replicated, {0: synthetic_store}, deadline_seconds=10.0) as callers:
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: replicated.status().is_ready and pids(replicated, "router-0") not in ([], [victim]))
        time.sleep(0.3)
    callers.assert_all_right(at_least=20)


def test_the_only_router_is_killed_and_searches_wait_for_it(service, synthetic_store):
    with Callers(service, {0: synthetic_store}, deadline_seconds=30.0) as callers:
        os.kill(pids(service, "router-0")[0], signal.SIGKILL)
        time.sleep(0.5)
        wait_until(lambda: service.status().is_ready)
        time.sleep(0.3)
    callers.assert_all_right(at_least=5)


def test_the_controller_is_killed_and_learns_from_the_routers_what_is_live(service, synthetic_store):
    older = service.live_snapshot().snapshot_id
    newer = synthetic_store.publish(seed=1, step=1).snapshot_id
    shards = pids(service, "-shard-")
    with Callers(service, {0: synthetic_store, 1: synthetic_store}) as callers:
        os.kill(pids(service, "realm-retrieval")[0], signal.SIGKILL)
        wait_until(lambda: _answers(service))
        assert service.status().snapshot.snapshot_id == older, "what is published later is not live by itself"
        assert pids(service, "-shard-") == shards, "the shards went on"
        service.swap(newer)
    callers.assert_all_right(at_least=5)
    assert service.search(queries(), 3).snapshot_id == newer


def test_a_controller_that_was_killed_follows_the_store_though_nobody_calls_it(ray_cluster, synthetic_store):
    synthetic_store.publish(seed=0, step=0)
    client = start_service(synthetic_store.store, follow=True)
    try:
        os.kill(pids(client, "realm-retrieval")[0], signal.SIGKILL)
        newer = synthetic_store.publish(seed=1, step=1).snapshot_id
        wait_until(lambda: client.search(queries(), 1).snapshot_id == newer)
    finally:
        stop_service()


def test_a_shard_that_could_not_load_after_a_restart_loads_when_its_files_are_back(service, synthetic_store):
    folder = synthetic_store.store.local_folder("indexes")
    folder.rename(folder.with_name("away"))
    os.kill(pids(service, "shard-0-replica-0")[0], signal.SIGKILL)
    with pytest.raises(DeadlineExceededError, match=r"index shard 0 of 2|all shards"):
        service.search(queries(), 3, deadline_seconds=4.0)
    folder.with_name("away").rename(folder)
    assert service.search(queries(), 3, deadline_seconds=60.0).block_ids_BK.shape == (6, 3)


def test_a_router_that_hangs_costs_no_search_where_there_is_another(replicated, synthetic_store):
    victim = pids(replicated, "router-0")[0]
    os.kill(victim, signal.SIGSTOP)
    try:
        with Callers(replicated, {0: synthetic_store}, deadline_seconds=15.0) as callers:
            time.sleep(10.0)
        callers.assert_all_right(at_least=3)
    finally:
        os.kill(victim, signal.SIGCONT)


def test_everything_is_killed_and_the_current_snapshot_is_served_again(service, synthetic_store):
    for pid in service.processes().values():
        os.kill(pid, signal.SIGKILL)
    result = service.search(queries(), 5, deadline_seconds=60.0)
    np.testing.assert_array_equal(result.block_ids_BK, exact_block_ids(synthetic_store.embeddings(0), queries(), 5))


def test_a_router_that_hangs_through_a_swap_serves_the_new_snapshot_afterwards(replicated, synthetic_store):
    newer = synthetic_store.publish(seed=1, step=1).snapshot_id
    victim = pids(replicated, "router-1")[0]
    swap = threading.Thread(target=replicated.swap, args=(newer,))
    with Callers(
        replicated, dict.fromkeys(range(2), synthetic_store), deadline_seconds=120.0, num_callers=4
    ) as callers:
        os.kill(victim, signal.SIGSTOP)
        swap.start()
        wait_until(lambda: replicated.status().snapshot.snapshot_id == newer, seconds=100.0)
        os.kill(victim, signal.SIGCONT)
        swap.join()
        live = replicated.status()
        wait_until(lambda: {router.generation for router in replicated.status().routers if router} != {None})
        wait_until(lambda: len({router and router.generation for router in replicated.status().routers}) == 1)
    assert live.snapshot.snapshot_id == newer
    callers.assert_all_right(at_least=4)
    assert replicated.search(queries(), 3).snapshot_id == newer


def test_a_shard_that_stays_away_is_named_when_the_deadline_passes(service):
    victim = pids(service, "shard-1-replica-0")[0]
    os.kill(victim, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(DeadlineExceededError, match=r"no answer of index shard 1 of 2|no answer from all shards"):
            service.search(queries(), 3, deadline_seconds=1.0)
        assert time.monotonic() - started < 4.0
    finally:
        os.kill(victim, signal.SIGCONT)
    assert service.search(queries(), 3, deadline_seconds=30.0).block_ids_BK.shape == (6, 3)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_snapshot_with_a_bad_file_does_not_go_live_and_the_caller_is_told_why(service, synthetic_store, damage):
    live = service.live_snapshot().snapshot_id
    bad = synthetic_store.publish(seed=3, step=3)
    file = synthetic_store.store.local_folder(shard_path(bad.shards[1].digest)) / "embeddings.npy"
    data = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    with Callers(service, {0: synthetic_store}) as callers:
        with pytest.raises((ArtifactCorruptError, ArtifactMissingError), match=r"embeddings\.npy"):
            service.swap(bad.snapshot_id)
        time.sleep(0.2)
    callers.assert_all_right(at_least=3)
    assert service.live_snapshot().snapshot_id == live
    assert bad.snapshot_id in service.status().last_failed_swap
    assert len(pids(service, "-shard-")) == 2


def test_two_swaps_at_once_both_happen_one_after_the_other(service, synthetic_store):
    ids = [synthetic_store.publish(seed=seed, step=seed).snapshot_id for seed in (1, 2)]
    results = {}
    with Callers(service, dict.fromkeys(range(3), synthetic_store)) as callers:
        threads = [threading.Thread(target=lambda i=i: results.update({i: service.swap(i)})) for i in ids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    callers.assert_all_right(at_least=3)
    assert {result.previous_snapshot_id for result in results.values()} & set(ids), "one came after the other"
    assert service.live_snapshot().snapshot_id in ids
    assert service.status().num_swaps == 2


def test_a_swap_back_to_an_older_snapshot(service, synthetic_store):
    older = service.live_snapshot().snapshot_id
    newer = synthetic_store.publish(seed=1, step=1).snapshot_id
    assert service.swap(newer).previous_snapshot_id == older
    assert service.swap(older).previous_snapshot_id == newer
    result = service.search(queries(), 5)
    np.testing.assert_array_equal(result.block_ids_BK, exact_block_ids(synthetic_store.embeddings(0), queries(), 5))


def test_in_place_per_shard_keeps_the_promises(service, synthetic_store):
    newer = synthetic_store.publish(seed=1, step=1).snapshot_id
    with Callers(service, {0: synthetic_store, 1: synthetic_store}) as callers:
        result = service.swap(newer, mode="in-place-per-shard")
        time.sleep(0.3)
    assert result.memory.is_mapped
    callers.assert_all_right(at_least=3)
    assert service.search(queries(), 3).snapshot_id == newer


def test_a_snapshot_that_does_not_fit_is_refused_with_the_numbers(service, synthetic_store):
    live = service.live_snapshot().snapshot_id
    newer = synthetic_store.publish(seed=1, step=1)
    path = f"snapshots/{newer.snapshot_id}.json"
    manifest = synthetic_store.store.read_json(path)
    manifest["shards"][0]["num_bytes"] = 10**15
    synthetic_store.store.write_json(path, manifest)
    with pytest.raises(UsageError, match=r"1000000\.\d+ GB for the next snapshot .* GB free.*in-place-per-shard"):
        service.swap(newer.snapshot_id)
    assert service.live_snapshot().snapshot_id == live


def test_uids_are_left_out_and_others_move_up(service, synthetic_store):
    from realm_core.storage.block_store import BlockRecords

    records = BlockRecords(synthetic_store.store, synthetic_store.corpus)
    plain = service.search(queries(), 5)
    uids_BK = [records.uids(ids_K).tolist() for ids_K in plain.block_ids_BK]
    left_out = [[uids_BK[0][0], uids_BK[0][3]], [], *([uids[1]] for uids in uids_BK[2:])]
    found = service.search(queries(), 3, exclude_uids=left_out)
    wanted = [np.delete(plain.block_ids_BK[0], [0, 3]), plain.block_ids_BK[1][:3]]
    wanted += [np.delete(ids_K, 1)[:3] for ids_K in plain.block_ids_BK[2:]]
    np.testing.assert_array_equal(found.block_ids_BK, wanted)


@pytest.mark.parametrize(
    ("uids", "message"), [([[]], "1 collections"), ([["ab"]] * 6, "'ab'"), ([b"x" * 20] * 6, "in a list or a set")]
)
def test_uids_that_are_none_are_refused(service, uids, message):
    with pytest.raises(QueryError, match=message):
        service.search(queries(), 3, exclude_uids=uids)


@pytest.mark.parametrize("how", ["left", "killed"])
def test_a_client_whose_cluster_went_away_says_so(how):
    done = run_apart("support.cluster_that_goes_away", how)
    assert done.stdout.startswith("ServiceUnavailableError in time"), done.stdout + done.stderr
    assert "realm serve status" in done.stdout


def run_apart(module, *arguments):
    """In a process that joins no cluster of the tests."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([".", "tests"])},
        capture_output=True,
        text=True,
        timeout=180,
    )


def _answers(service):
    try:
        return service.status().is_ready
    except ServiceUnavailableError:
        return False


def test_connecting_outside_a_cluster_says_so():
    code = (
        "from cluster.retrieval_service import RetrievalClient\n"
        "try:\n    RetrievalClient.connect()\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("ServiceUnavailableError"), done.stderr
    assert RetrievalClient.__name__ and "joined no Ray cluster" in done.stdout
