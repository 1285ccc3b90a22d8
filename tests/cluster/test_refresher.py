"""The refresher with a real service, pool and index, and engines that stand in; failures come from outside."""

import os
import signal
import time

import numpy as np
import pytest
from support.processes import actors
from support.refreshers import KillAt, Watched, config
from support.snapshots import DIMENSION
from support.stand_in_engines import StandInLoader
from support.waiting import wait_until

from cluster.freshness import wait_until_fresh
from cluster.refresh import IndexPlan
from realm_core.index.specs import IndexSpec
from realm_core.storage.embedding_store import embedding_digest, embedding_path
from realm_core.storage.snapshots import list_snapshots, live_snapshot_id, load_snapshot, shard_path, snapshot_path

pytestmark = pytest.mark.cluster

STAGES = ("embed", "index", "gate", "publish", "swap")
IN_EVERY_BLOCK = 7
ONE_TITLE = 60


@pytest.fixture
def start(service, synthetic_store):
    """Starts refreshers on the service's store and stops them."""
    started = []

    def begin(loader=None, **changes):
        started.append(Watched(config(synthetic_store, loader or StandInLoader(), **changes)))
        return started[-1]

    yield begin
    for watched in started:
        watched.client.stop()


def search(service):
    return service.search(np.random.default_rng(1).normal(size=(2, DIMENSION)).astype(np.float32), 3)


def test_a_checkpoint_goes_live_and_its_record_says_how(start, service, synthetic_store):
    refresher = start(StandInLoader(seconds_per_row=0.002))
    refresher.offer(10)
    record = refresher.records()[10]
    assert (record["status"], record["error"]) == ("live", "")
    assert search(service).snapshot_id == record["snapshot_id"] == live_snapshot_id(synthetic_store.store)
    assert tuple(record["seconds"]) == STAGES
    assert tuple(record["seconds_after_embedding"]) == STAGES[1:]
    for stage, seconds in record["seconds_after_embedding"].items():
        assert 0 <= seconds <= record["seconds"][stage]
    total = record["seconds"]["embed"] + sum(record["seconds_after_embedding"].values())
    assert record["live_at_seconds"] - record["started_at_seconds"] == pytest.approx(total, abs=0.5)
    assert 0 <= record["overlap_at_10"] < 0.2, "another encoder, other hits"
    assert record["encoder_saved_at_seconds"] == 1010.0


def test_shards_are_built_while_later_parts_are_embedded(start, synthetic_store):
    refresher = start(StandInLoader(seconds_per_row=0.02))
    refresher.offer(10)
    record = refresher.records()[10]
    assert record["seconds"]["index"] > record["seconds_after_embedding"]["index"] + 1.0
    assert record["counts"]["shards"] == 3


def test_the_processes_of_the_next_snapshot_start_while_parts_are_embedded(start, service):
    refresher = start(
        StandInLoader(seconds_per_row=0.1), index=IndexPlan(num_shards=2, spec=IndexSpec(), target_recall=0.95)
    )
    live = set(actors("ShardServer"))
    refresher.begin(10)
    while len(actors("ShardServer")) < 2 * len(live):
        assert refresher.client.status().progress.stage in ("embed", "index", "gate")
        time.sleep(0.05)
    ahead = set(actors("ShardServer")) - live
    assert refresher.records()[10]["status"] == "live"
    assert {pid for name, pid in service.processes().items() if "-shard-" in name} == ahead


def test_the_same_encoder_gives_the_same_snapshot_whatever_the_timing(start, synthetic_store):
    refresher = start(StandInLoader(), run_name="pretrain-one")
    refresher.offer(10)
    name = refresher.records()[10]["snapshot_id"]
    refresher.client.stop()
    store = synthetic_store.store
    for shard in load_snapshot(store, name).shards:
        store.remove_folder(shard_path(shard.digest), first="shard.json")
    slow = start(StandInLoader(seconds_per_row=0.01), run_name="pretrain-two")
    store.remove(embedding_path(load_snapshot(store, name).embedding_digests[0]))
    slow.offer(11, name="encoder-10")
    record = slow.records()[11]
    assert record["snapshot_id"].split("-")[2] == name.split("-")[2], "content, not time"
    assert record["overlap_at_10"] == 1.0, "the same embeddings, the same hits"
    assert record["counts"]["parts_made"] == 1


def test_the_newest_checkpoint_is_taken_and_those_passed_over_are_named(start):
    refresher = start(StandInLoader(seconds_per_row=0.01))
    refresher.begin(10)
    for step in (20, 30):
        refresher.offer(step)
    records = refresher.records()
    assert sorted(records) == [10, 30]
    assert records[30]["skipped_steps"] == [20]


def is_embedding(store):
    digest = embedding_digest(store.corpus.parts[0].digest, "encoder-10", "fp32")
    return lambda: store.store.exists(embedding_path(digest))


def has_new(store, folder):
    before = set(store.store.list(folder))
    return lambda: set(store.store.list(folder)) - before


def is_published(store):
    before = live_snapshot_id(store.store)
    return lambda: live_snapshot_id(store.store) != before


AT = {
    "embed": is_embedding,
    "index": lambda store: has_new(store, "indexes"),
    "publish": lambda store: has_new(store, "snapshots"),
    "swap": is_published,
}


@pytest.mark.parametrize("stage", AT)
def test_a_refresher_that_is_killed_finishes_its_refresh_and_swaps_once(stage, start, service, synthetic_store):
    refresher = start(StandInLoader(seconds_per_row=0.005))
    refresher.client.status()
    killer = KillAt(AT[stage](synthetic_store))
    num_swaps = service.status().num_swaps
    refresher.offer(10)
    assert killer.has_killed.wait(600)
    record = refresher.records()[10]
    assert (record["status"], record["num_attempts"]) == ("live", 2)
    assert search(service).snapshot_id == record["snapshot_id"] == live_snapshot_id(synthetic_store.store)
    assert service.status().num_swaps == num_swaps + 1
    assert record["counts"]["parts_reused"] > 0, "what was embedded is not embedded again"
    refresher.offer(10)
    assert list(refresher.records()) == [10], "a step that is replayed is not refreshed twice"
    assert refresher.records()[10]["started_at_seconds"] == record["started_at_seconds"]


def test_what_waited_when_the_refresher_was_killed_follows_the_refresh_that_was_cut_off(start, synthetic_store):
    refresher = start(StandInLoader(seconds_per_row=0.01))
    refresher.begin(10)
    refresher.offer(20)
    for pid in actors("Refresher"):
        os.kill(pid, signal.SIGKILL)
    records = refresher.records()
    assert [(record["step"], record["status"]) for record in records.values()] == [(10, "live"), (20, "live")]
    assert live_snapshot_id(synthetic_store.store) == records[20]["snapshot_id"]


def test_a_run_that_is_started_again_finishes_what_was_cut_off(start, synthetic_store):
    refresher = start(StandInLoader(seconds_per_row=0.01))
    refresher.begin(10)
    refresher.client.stop()
    again = start(StandInLoader())
    assert again.records()[10]["status"] == "live"


def test_a_refresh_that_kills_the_refresher_again_and_again_is_given_up(start, service):
    refresher = start(StandInLoader(seconds_per_row=0.05))
    live = service.live_snapshot().snapshot_id
    refresher.offer(10)
    seen = set()
    deadline = time.monotonic() + 600
    while len(seen) < 3:
        assert time.monotonic() < deadline
        records = refresher.run.read_refreshes()
        for pid in actors("Refresher"):
            if records and records[0]["num_attempts"] > len(seen) and pid not in seen:
                seen.add(pid)
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    record = refresher.records()[10]
    assert record["status"] == "failed"
    assert "died 3 times" in record["error"]
    assert service.live_snapshot().snapshot_id == live


BAD = {
    "cannot be read": (StandInLoader(cannot_load=True), "no weights"),
    "NaN for queries": (StandInLoader(makes_nan_of=IN_EVERY_BLOCK), "NaN or infinity in the embedding of row 0"),
    "NaN for a few blocks": (StandInLoader(makes_nan_of=ONE_TITLE), "NaN"),
    "another width": (StandInLoader(dimension=24), "24 dimensions; expected 16, as the live snapshot has"),
    "breaks": (StandInLoader(breaks=True), "the device"),
    "dropout left on": (StandInLoader(is_random=True), "evaluation mode"),
}


def test_checkpoints_that_are_no_good_change_nothing_and_the_next_one_goes_live(start, service, synthetic_store):
    refresher = start(StandInLoader(of_encoders={how: loader for how, (loader, _) in BAD.items()}))
    live = service.live_snapshot().snapshot_id
    for step, (how, (_, message)) in enumerate(BAD.items(), start=10):
        refresher.offer(step, name=how)
        record = refresher.records()[step]
        assert record["status"] == "failed"
        assert message in record["error"]
        assert search(service).snapshot_id == live == live_snapshot_id(synthetic_store.store)
        assert refresher.client.freshness().error == record["error"]
    refresher.offer(20)
    assert refresher.records()[20]["status"] == "live"
    assert refresher.client.freshness().error == ""
    failed = {embedding_digest(part.digest, how, "fp32") for part in synthetic_store.corpus.parts for how in BAD}
    assert not failed & {name.split(".")[0] for name in synthetic_store.store.list("embeddings")}, "garbage"


def test_a_snapshot_that_the_service_cannot_load_does_not_stay_the_stores_live_one(start, service, synthetic_store):
    refresher = start(StandInLoader(seconds_per_row=0.002))
    before = live_snapshot_id(synthetic_store.store)
    published = has_new(synthetic_store, "snapshots")
    refresher.offer(10)
    wait_until(published, every_seconds=0.0005)
    store = synthetic_store.store
    digest = load_snapshot(store, next(iter(published())).removesuffix(".json")).shards[0].digest
    name = next(iter(store.read_json(f"{shard_path(digest)}/shard.json")["sha256"]))
    store.write_bytes(f"{shard_path(digest)}/{name}", b"other bytes")
    record = refresher.records()[10]
    assert record["status"] == "failed"
    assert live_snapshot_id(store) == before == service.live_snapshot().snapshot_id


def test_a_service_that_is_started_anew_is_found_by_the_next_refresh(start, service, synthetic_store):
    from cluster.retrieval_service import start_service, stop_service

    refresher = start()
    refresher.offer(10)
    assert refresher.records()[10]["status"] == "live"
    stop_service()
    refresher.offer(20)
    assert "retrieval service: none on this cluster" in refresher.records()[20]["error"]
    client = start_service(synthetic_store.store)
    refresher.offer(30)
    record = refresher.records()[30]
    assert record["status"] == "live"
    assert search(client).snapshot_id == record["snapshot_id"]


def test_old_snapshots_go_as_new_ones_come(start, service, synthetic_store):
    refresher = start()
    store, first = synthetic_store.store, service.live_snapshot().snapshot_id
    refresher.run.write_document("start", {"snapshot": first})
    for step in range(10, 70, 10):
        store.write_bytes(f"encoders/encoder-{step}/config.json", b"{}")
        refresher.offer(step)
        refresher.records()
    store.write_bytes("encoders/in-the-making/model.safetensors", b"half")
    records = refresher.records()
    newest = [records[step]["snapshot_id"] for step in (50, 60)]
    assert set(list_snapshots(store)) == {first, *newest}
    num_parts = len(synthetic_store.corpus.parts)
    assert len(store.list("embeddings")) == 3 * num_parts
    assert {name for name in store.list("encoders") if name != "in-the-making"} == {"encoder-50", "encoder-60"}
    assert records[60]["garbage"]["snapshots"] == 1
    assert records[60]["garbage"]["bytes"] > 0
    assert not store.exists(snapshot_path(records[10]["snapshot_id"]))


def test_training_waits_for_a_refresh_under_way_and_not_for_one_that_failed(start):
    slow = StandInLoader(seconds_per_row=0.01)
    refresher = start(StandInLoader(of_encoders={"bad": StandInLoader(cannot_load=True), "encoder-10": slow}))
    wait = refresher.client.wait_until_fresh(10, max_staleness_steps=10)
    assert wait.problem == "", "nothing is under way, nothing is waited for"
    refresher.offer(10)
    wait = refresher.client.wait_until_fresh(20, max_staleness_steps=10)
    assert wait.problem == ""
    assert wait.seconds > 0.5
    refresher.offer(20, name="bad")
    wait = wait_until_fresh(refresher.client.freshness, 30, max_staleness_steps=10)
    assert "no weights" in wait.problem


def test_a_live_encoder_that_cannot_be_loaded_costs_the_overlap_and_no_refresh(start):
    refresher = start(StandInLoader(of_encoders={"encoder-0": StandInLoader(breaks=True)}))
    refresher.offer(10)
    record = refresher.records()[10]
    assert (record["status"], record["overlap_at_10"]) == ("live", None)
    refresher.offer(20)
    assert 0 <= refresher.records()[20]["overlap_at_10"] < 0.2
