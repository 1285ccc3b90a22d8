import os
import signal
import subprocess
import sys
import time

import pytest
from support import s3

from realm_core.errors import StoreError, StoreLockedError
from realm_core.storage.embedded_corpus import EmbeddedCorpus, save_embedded_corpus
from realm_core.storage.embedding_store import embedding_path
from realm_core.storage.encoder_pointer import EncoderVersion, set_current_encoder
from realm_core.storage.encoder_store import encoder_path, has_encoder
from realm_core.storage.garbage import collect_garbage, collect_garbage_of_run
from realm_core.storage.inventory import FOLDERS
from realm_core.storage.leases import is_being_read, reading
from realm_core.storage.local_files import TEMPORARY_MARK
from realm_core.storage.lock import writer_lock
from realm_core.storage.publishing import rollback
from realm_core.storage.reader_store import ReaderVersion, set_current_reader
from realm_core.storage.retention import artifacts_of
from realm_core.storage.snapshots import (
    list_snapshots,
    live_snapshot_id,
    load_snapshot,
    publish,
    shard_path,
    snapshot_path,
)
from realm_core.training.run_folder import RunFolder

s3_server = s3.s3_server

READ = """
import sys, time
from realm_core.storage.files import Store
from realm_core.storage.leases import reading
lease = reading(Store(sys.argv[1]), sys.argv[2])
print("ready", flush=True)
time.sleep(60)
"""
BUILD = """
import sys, time
from realm_core.storage.files import Store
from realm_core.storage.lock import writer_lock
with writer_lock(Store(sys.argv[1]), "realm index"):
    print("ready", flush=True)
    time.sleep(60)
"""
COLLECT_AND_DIE = """
import os, signal, sys
from realm_core.storage.files import Store
from realm_core.storage.garbage import collect_garbage, collect_garbage_of_run
def die(num_done, total):
    if num_done == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
collect_garbage(Store(sys.argv[1]), num_newest=1, progress=die)
"""


@pytest.fixture
def in_another_process():
    """Starts a script that says when it is ready; ends it with the test."""
    started = []

    def start(script, *arguments):
        process = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def sizes_bytes(store):
    """Of all files that could be removed."""
    return {path: size for folder in FOLDERS for path, size in store.sizes_bytes(folder).items()}


def all_files(store):
    return set(sizes_bytes(store))


def is_whole(store, snapshot_id):
    """Every file that the snapshot names is there."""
    named, files = artifacts_of(load_snapshot(store, snapshot_id)), all_files(store)
    paths = [f"{shard_path(d)}/{name}" for d in named.shards for name in ("shard.json", "index.bin")]
    paths += [embedding_path(digest) for digest in named.embeddings]
    paths += [f"{encoder_path(d)}/{name}" for d in named.encoders for name in ("config.json", "model.safetensors")]
    return set(paths) <= files


def test_live_previous_and_newest_stay_whole_and_the_rest_is_freed(whole):
    store = whole.store
    published = [whole.publish(step) for step in (1, 2, 3, 4, 5, 6)]
    for _ in range(4):
        rollback(store)  # live: 2, previous: 1
    before, others = sizes_bytes(store), set(store.sizes_bytes(""))
    report = collect_garbage(store, num_newest=2)
    first, second, third, fourth, fifth, sixth = published
    assert report.kept == {
        first: "previous",
        second: "live",
        fifth: "among the newest 2",
        sixth: "among the newest 2",
    }
    assert report.removed == (third, fourth)
    assert list_snapshots(store) == [first, second, fifth, sixth]
    assert all(is_whole(store, one) for one in report.kept)
    after = sizes_bytes(store)
    assert sum(before.values()) - sum(after.values()) == report.num_freed_bytes > 0
    assert not has_encoder(store, "encoder-3")
    assert (len(report.found.shards), len(report.removed_artifacts.shards)) == (12, 4)
    assert collect_garbage(store, num_newest=2).num_freed_bytes == 0
    assert {path for path in others if not path.startswith((*FOLDERS, "leases"))} <= store.sizes_bytes("").keys()


def test_a_dry_run_says_the_same_and_removes_nothing(local, in_another_process):
    for step in (1, 2, 3, 4):
        local.publish(step)
    before = local.store.sizes_bytes("")
    in_another_process(BUILD, local.store.url)  # it does not even need the lock
    dry = collect_garbage(local.store, num_newest=1, is_dry_run=True)
    after = local.store.sizes_bytes("")
    assert {**after, "WRITER.lock": 0} == {**before, "WRITER.lock": 0}
    assert dry.is_dry_run
    assert len(dry.removed) == 2


def test_what_is_being_read_stays_until_its_reader_is_killed(whole, in_another_process):
    store = whole.store
    first, *_ = (whole.publish(step) for step in (1, 2, 3, 4))
    reader = in_another_process(READ, store.url, first)
    report = collect_garbage(store, num_newest=1)
    assert report.kept[first] == "being read"
    assert len(report.removed) == 1
    assert is_whole(store, first)
    os.kill(reader.pid, signal.SIGKILL)
    reader.wait()
    assert collect_garbage(store, num_newest=1).removed == (first,)
    assert [one for one in store.list("leases") if one.startswith(first)] == []


def test_a_lease_in_this_process_counts_too(local):
    first, *_ = (local.publish(step) for step in (1, 2, 3))
    with reading(local.store, first):
        assert collect_garbage(local.store, num_newest=1, is_dry_run=True).kept[first] == "being read"
        assert collect_garbage(local.store, num_newest=1).removed == ()
    assert collect_garbage(local.store, num_newest=1).removed == (first,)
    assert not is_being_read(local.store, first)


def test_nothing_is_collected_while_something_is_built(local, in_another_process):
    for step in (1, 2, 3):
        local.publish(step)
    builder = in_another_process(BUILD, local.store.url)
    before = all_files(local.store)
    with pytest.raises(StoreLockedError, match=f"`realm index` \\(process {builder.pid}"):
        collect_garbage(local.store, num_newest=1)
    assert all_files(local.store) == before


@pytest.mark.parametrize("num_done", [1, 2, 3, 5, 8])
def test_a_run_that_is_killed_breaks_no_snapshot_and_the_next_one_finishes(local, tmp_path, num_done):
    store = local.store
    for step in (1, 2, 3, 4):
        local.publish(step)
    died = subprocess.run([sys.executable, "-c", COLLECT_AND_DIE, store.url, str(num_done)], timeout=60)
    assert died.returncode == -signal.SIGKILL
    assert all(is_whole(store, one) for one in list_snapshots(store))
    collect_garbage(store, num_newest=1)
    assert [load_snapshot(store, one).encoder_step for one in list_snapshots(store)] == [3, 4]
    named = artifacts_of(*(load_snapshot(store, one) for one in list_snapshots(store)))
    assert set(store.list("indexes")) == named.shards
    assert {name.removesuffix(".parquet") for name in store.list("embeddings")} == named.embeddings
    assert set(store.list("encoders")) == named.encoders


def test_a_snapshot_that_is_published_between_the_plan_and_the_removal_stays(local, monkeypatch):
    from realm_core.storage import garbage

    first, *_ = (local.publish(step) for step in (1, 2, 3))
    take = garbage.claimed

    def publish_then_claim(store, snapshot_id):
        publish(store, load_snapshot(store, first))
        return take(store, snapshot_id)

    monkeypatch.setattr(garbage, "claimed", publish_then_claim)
    report = collect_garbage(local.store, num_newest=0)
    assert "live" in report.kept[first]
    assert report.removed == ()
    assert live_snapshot_id(local.store) == first
    assert all(is_whole(local.store, one) for one in list_snapshots(local.store))


@pytest.mark.parametrize("which", [0, 2])
def test_a_manifest_that_cannot_be_read_stops_it(local, which):
    ids = [local.publish(step) for step in (1, 2, 3)]
    local.store.write_bytes(snapshot_path(ids[which]), b"{")
    before = all_files(local.store)
    with pytest.raises(StoreError, match=f"{ids[which]}.*Nothing was removed"):
        collect_garbage(local.store, num_newest=1)
    assert all_files(local.store) == before


@pytest.mark.parametrize("pointer", [b"{", b'{"snapshot": "step-000009-gone"}'])
def test_a_pointer_that_leads_nowhere_stops_it(local, pointer):
    for step in (1, 2, 3):
        local.publish(step)
    local.store.write_bytes("CURRENT", pointer)
    before = all_files(local.store)
    with pytest.raises(StoreError, match="realm snapshots publish"):
        collect_garbage(local.store, num_newest=1)
    assert all_files(local.store) == before


def test_the_newest_encoder_and_what_it_embedded_of_the_corpus_stay(local):
    store = local.store
    local.publish(1)
    old_corpus = local.corpus
    stale = local.embed(old_corpus.parts[0], "newest")
    local.ingest(range(60, 100))
    local.publish(2)
    local.put_fake_encoder("newest")
    set_current_encoder(store, EncoderVersion(digest="newest", step=3, saved_at_seconds=5.0))
    begun = local.embed(local.corpus.parts[0], "newest", precision="bf16")
    other = local.embed(local.corpus.parts[0], "nobody's")
    collect_garbage(store, num_newest=1)
    assert has_encoder(store, "newest")
    there = {digest: store.exists(embedding_path(digest)) for digest in (begun, stale, other)}
    assert there == {begun: True, stale: False, other: False}


def test_a_complete_embedding_by_the_newest_encoder_stays(local):
    store = local.store
    local.publish(1)
    kept = local.embed(local.corpus.parts[0], "newest")
    gone = local.embed(local.corpus.parts[0], "older")
    for encoder, digest in (("newest", kept), ("older", gone)):
        record = EmbeddedCorpus(
            corpus_digest=local.corpus.digest,
            encoder_digest=encoder,
            precision="fp32",
            dimension=8,
            num_rows=60,
            embedding_digests=(digest,),
            checks={},
            created_at_seconds=1.0,
        )
        save_embedded_corpus(store, record)
    set_current_encoder(store, EncoderVersion(digest="newest", step=3, saved_at_seconds=5.0))
    local.ingest(range(60, 100))
    collect_garbage(store, num_newest=1)
    assert store.exists(embedding_path(kept))
    assert not store.exists(embedding_path(gone))


def test_what_readers_and_runs_name_stays(local):
    store = local.store
    first, second, *_ = (local.publish(step) for step in (1, 2, 3, 4, 5))
    for digest in ("of-reader", "of-warmup", "of-nobody"):
        local.put_fake_encoder(digest)
    set_current_reader(store, ReaderVersion(digest="r", encoder_digest="of-reader"))
    RunFolder(store, "warmup-1").write_document("result", {"encoder": "of-warmup"})
    RunFolder(store, "pretrain-1").write_document("start", {"snapshot": first})
    for document, value in (("start", {"snapshot": second}), ("result", {})):
        RunFolder(store, "pretrain-2").write_document(document, value)
    report = collect_garbage(store, num_newest=1)
    assert report.kept[first] == "pretrain-1 began with it"
    assert second in report.removed
    there = {one: has_encoder(store, one) for one in ("of-reader", "of-warmup", "of-nobody")}
    assert there == {"of-reader": True, "of-warmup": True, "of-nobody": False}


def test_leftovers_go_and_other_folders_are_left_alone(local):
    store = local.store
    snapshot_id = local.publish(1)
    shard = load_snapshot(store, snapshot_id).shards[0].digest
    leftovers = ["embeddings/x.parquet.tmp-1-a", f"indexes/{shard}/index.bin.tmp-1-a", "snapshots/s.json.tmp-1-a"]
    others = ["quantized/m/model.bin", "runs/r/metrics/x.jsonl.tmp-1-a", "CURRENT.tmp-1-a", "parts/x.parquet"]
    for path in leftovers + others:
        store.write_bytes(path, b"12345")
    report = collect_garbage(store, num_newest=1)
    assert (report.num_leftovers, report.num_freed_bytes) == (3, 15)
    assert [store.exists(path) for path in leftovers] == [False] * 3
    assert all(store.exists(path) for path in others)
    assert is_whole(store, snapshot_id)


def test_the_lock_file_of_a_removed_snapshot_goes_with_it(local):
    first, *_ = (local.publish(step) for step in (1, 2, 3))
    reading(local.store, first).close()
    assert local.store.list("leases") == [f"{first}.lock"]
    collect_garbage(local.store, num_newest=1)
    assert local.store.list("leases") == []


def test_a_reader_that_waits_for_the_collection_is_told(local, in_another_process):
    """It opens the lock file while it is claimed, and gets it when the manifest is gone."""
    first, *_ = (local.publish(step) for step in (1, 2, 3))
    waiting = []

    def start_reader(num_done, total):
        if not waiting:
            script = "import sys, time; print('ready', flush=True)\n" + READ.replace('print("ready"', 'print("held"')
            waiting.append(in_another_process(script, local.store.url, first))
            time.sleep(0.5)

    assert collect_garbage(local.store, num_newest=1, progress=start_reader).removed == (first,)
    assert waiting[0].wait(timeout=30) == 1


def test_a_run_that_goes_on_loses_no_encoder_that_it_may_be_writing_and_no_temporary_file(whole):
    ids = [whole.publish(step) for step in range(4)]
    for name in ("failed", "in-the-making"):
        whole.put_fake_encoder(name)
    whole.embed(whole.corpus.parts[0], "failed")
    half_written = f"encoders/in-the-making/.model.safetensors{TEMPORARY_MARK}1"
    whole.store.write_bytes(half_written, b"half")
    with writer_lock(whole.store, "realm pretrain"):  # held by the driver, not by the refresher
        report = collect_garbage_of_run(whole.store, num_newest=2, old_encoders={"failed"})
    assert set(report.removed) == set(ids[:2])
    kept = {f"encoder-{step}" for step in (2, 3)} | {"in-the-making"}
    assert {name for name in whole.store.list("encoders") if name != "CURRENT"} == kept
    assert whole.store.exists(half_written)
    needed = artifacts_of(*(load_snapshot(whole.store, one) for one in ids[2:]))
    assert {name.removesuffix(".parquet") for name in whole.store.list("embeddings")} == needed.embeddings
    assert set(whole.store.list("indexes")) == needed.shards
