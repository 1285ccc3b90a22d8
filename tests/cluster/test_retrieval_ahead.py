"""Shard processes that are started ahead of a swap: used where they fit, gone where not, and never in the way."""

import os
import signal
import time

import numpy as np
import pytest
import ray
from support.callers import Callers
from support.processes import actors
from support.snapshots import DIMENSION, exact_block_ids
from support.waiting import wait_until

pytestmark = pytest.mark.cluster


def queries():
    return np.random.default_rng(9).normal(size=(6, DIMENSION)).astype(np.float32)


def live_pids(service):
    return {pid for name, pid in service.processes().items() if "-shard-" in name}


def ahead_pids(service):
    return set(actors("ShardServer")) - live_pids(service)


@pytest.fixture
def prepared(service):
    """The service, and the ids of the processes that were started ahead, one for each of two shards."""
    service.prepare_swap()
    wait_until(lambda: len(ahead_pids(service)) == 2)
    return service, ahead_pids(service)


def test_a_swap_takes_the_processes_that_were_started_ahead(prepared, synthetic_store):
    service, ahead = prepared
    newer = synthetic_store.publish(seed=1, step=1).snapshot_id
    with Callers(service, {0: synthetic_store, 1: synthetic_store}) as callers:
        service.swap(newer)
        time.sleep(0.3)
    callers.assert_all_right(at_least=3)
    assert live_pids(service) == ahead
    result = service.search(queries(), 5)
    assert result.snapshot_id == newer
    np.testing.assert_array_equal(result.block_ids_BK, exact_block_ids(synthetic_store.embeddings(1), queries(), 5))


def test_a_shard_that_was_started_ahead_comes_back_with_its_shard_when_it_is_killed(prepared, synthetic_store):
    service, ahead = prepared
    service.swap(synthetic_store.publish(seed=1, step=1).snapshot_id)
    for pid in ahead:
        os.kill(pid, signal.SIGKILL)
    result = service.search(queries(), 5, deadline_seconds=60.0)
    np.testing.assert_array_equal(result.block_ids_BK, exact_block_ids(synthetic_store.embeddings(1), queries(), 5))


def test_a_process_that_dies_before_the_swap_is_started_again_for_it(prepared, synthetic_store):
    service, ahead = prepared
    newer = synthetic_store.publish(seed=1, step=1).snapshot_id
    os.kill(next(iter(ahead)), signal.SIGKILL)
    service.swap(newer)
    assert service.search(queries(), 3).snapshot_id == newer


def test_preparing_twice_starts_no_more(prepared):
    service, ahead = prepared
    service.prepare_swap()
    service.status()
    time.sleep(2.0)
    assert ahead_pids(service) == ahead


@pytest.mark.parametrize(("num_shards", "mode"), [(3, "blue-green"), (2, "in-place-per-shard")])
def test_what_does_not_fit_the_swap_that_comes_ends(prepared, synthetic_store, num_shards, mode):
    service, ahead = prepared
    newer = synthetic_store.publish(seed=1, step=1, num_shards=num_shards).snapshot_id
    service.swap(newer, mode=mode)
    assert service.search(queries(), 3).snapshot_id == newer
    assert len(live_pids(service)) == num_shards
    assert not live_pids(service) & ahead
    wait_until(lambda: not ahead_pids(service))


def test_a_controller_that_is_killed_leaves_none_behind(prepared, synthetic_store):
    service, ahead = prepared
    live = live_pids(service)
    service.search(queries(), 3)  # routers that have been asked something look after the controller
    os.kill(service.processes()["realm-retrieval"], signal.SIGKILL)
    wait_until(lambda: not set(actors("ShardServer")) & ahead)
    assert live_pids(service) == live
    newer = synthetic_store.publish(seed=1, step=1).snapshot_id
    service.swap(newer)
    assert service.search(queries(), 3).snapshot_id == newer


@pytest.fixture
def all_but_full(service):
    """The service on a cluster with 100 MiB left to give."""

    class Keeper:
        def is_there(self):
            return True

    free_bytes = int(ray.available_resources()["memory"])
    keeper = ray.remote(memory=free_bytes - (100 << 20))(Keeper).remote()
    ray.get(keeper.is_there.remote())
    wait_until(lambda: ray.available_resources().get("memory", 0) <= 101 << 20)
    yield service
    ray.kill(keeper)


def test_where_there_is_no_room_none_start(all_but_full):
    service = all_but_full
    service.prepare_swap()
    service.status()
    time.sleep(2.0)
    assert not ahead_pids(service)


def test_what_is_to_be_left_free_is_left_free(service):
    service.prepare_swap(bytes_left_free=int(ray.available_resources()["memory"]) - (100 << 20))
    service.status()
    time.sleep(2.0)
    assert not ahead_pids(service)
