"""Stores on an object store that is there, away for a while, away for good, or refuses."""

import logging
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from support import s3

from realm_core.errors import ArtifactCorruptError, ArtifactMissingError, StoreError
from realm_core.storage.block_store import PartEntry
from realm_core.storage.embedding_store import EmbeddingSpec, embedding_path, read_embeddings, write_embeddings
from realm_core.storage.files import Store
from realm_core.storage.lock import LEASE_SECONDS, LOCK_NAME, writer_lock

s3_server = s3.s3_server

AWAY_SECONDS = 0.7
LOCAL_FILE = """
import sys
from realm_core.storage.files import Store
store = Store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(len(store.local_file("parts/x").read_bytes()))
"""


@pytest.fixture
def store(s3_server):
    return Store(f"{s3_server.make_bucket('corpus')}/realm")


def start_reader(url):
    """A process that asks for parts/x when told to."""
    reader = subprocess.Popen(
        [sys.executable, "-c", LOCAL_FILE, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout.readline() == "ready\n"
    return reader


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_what_is_written_is_read_listed_and_removed(store, tmp_path):
    store.write_bytes("parts/x", b"one")
    store.write_bytes("parts/x", b"two")
    store.write_file("parts/y", lambda local: local.write_bytes(b"three"))
    assert store.read_bytes("parts/x") == b"two"
    assert store.local_file("parts/y").read_bytes() == b"three"
    assert store.list("parts") == ["x", "y"]
    assert store.list("nothing") == []
    assert abs(store.modified_at_seconds("parts/y") - time.time()) < 60
    with pytest.raises(ArtifactMissingError):
        store.modified_at_seconds("parts/z")
    assert [store.exists(path) for path in ("parts/x", "parts", "parts/z", "nothing/x")] == [True, True, False, False]
    store.remove("parts/x")
    store.remove("parts/x")
    assert store.list("parts") == ["y"]
    assert not store.exists("parts/x")
    store.remove("parts")
    assert store.list("parts") == []


def test_a_folder_goes_up_with_its_manifest_last_and_comes_down_whole(store, s3_server, tmp_path):
    (tmp_path / "source" / "deep").mkdir(parents=True)
    for name in ("a.bin", "manifest.json", "deep/z.bin"):
        (tmp_path / "source" / name).write_text(name)
    store.put_folder(tmp_path / "source", "indexes/s", last="manifest.json")
    puts = [path.removeprefix("/corpus/realm/indexes/s/") for method, path in s3_server.requests if method == "PUT"][1:]
    assert puts == ["a.bin", "deep/z.bin", "manifest.json"]
    assert store.local_file("indexes/s/deep/z.bin").read_text() == "deep/z.bin"


def test_what_another_process_wrote_and_removed_is_seen_at_once(store):
    store.write_bytes("parts/x", b"")
    assert store.list("parts") == ["x"]
    elsewhere = "import sys; from realm_core.storage.files import Store; s = Store(sys.argv[1]); {}"
    for do, names in (("s.write_bytes('parts/y', b'')", ["x", "y"]), ("s.remove('parts/x')", ["y"])):
        subprocess.run([sys.executable, "-c", elsewhere.format(do), store.url], check=True, timeout=60)
        assert [store.exists("parts/x"), store.exists("parts/y")] == ["x" in names, True]
        assert store.list("parts") == names


OPERATIONS = {
    "write_bytes": lambda store: store.write_bytes("parts/new", b"new"),
    "write_file": lambda store: store.write_file("parts/new", lambda local: local.write_bytes(b"new")),
    "read_bytes": lambda store: store.read_bytes("parts/x"),
    "local_file": lambda store: store.local_file("parts/x").read_bytes(),
    "exists": lambda store: store.exists("parts/x"),
    "list": lambda store: store.list("parts"),
    "remove": lambda store: store.remove("parts/x"),
}
RESULTS = {"read_bytes": b"old", "local_file": b"old", "exists": True, "list": ["x"]}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_server_that_is_away_for_a_while_is_waited_for(store, s3_server, name, caplog):
    store.write_bytes("parts/x", b"old")
    with s3_server.paused(AWAY_SECONDS):
        assert OPERATIONS[name](store) == RESULTS.get(name)
    log = warnings_of(caplog)
    assert log
    assert all("parts" in line and f"in store {store.url} failed" in line and "trying again in" in line for line in log)
    assert store.list("parts") == {"remove": [], "write_bytes": ["new", "x"], "write_file": ["new", "x"]}.get(
        name, ["x"]
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_server_that_is_away_for_longer_is_an_error_that_says_what_to_do(store, s3_server, name, monkeypatch):
    monkeypatch.setenv("REALM_STORE_RETRY_SECONDS", "1")
    impatient = Store(store.url)
    s3_server.stop()
    started = time.monotonic()
    with pytest.raises(
        StoreError, match=r"s3://corpus/realm: .*parts.* again and again for 1 s.*run the command again"
    ):
        OPERATIONS[name](impatient)
    assert 1 <= time.monotonic() - started < 10
    s3_server.start()
    assert store.list("parts") == []


@pytest.mark.parametrize("name", ["write_bytes", "write_file", "read_bytes", "local_file"])
def test_a_connection_that_is_cut_in_the_middle_of_a_file_is_made_again(store, s3_server, name, caplog):
    data = os.urandom(3_000_000)
    store.write_bytes("parts/x", data)
    s3_server.cut_next(12)  # s3fs itself tries five times, and aiohttp each of them twice
    if name.startswith("write"):
        {"write_bytes": store.write_bytes, "write_file": write_by_file(store)}[name]("parts/new", data)
        assert store.read_bytes("parts/new") == data
    else:
        assert OPERATIONS[name](store) == data
    assert warnings_of(caplog)


def write_by_file(store):
    return lambda path, data: store.write_file(path, lambda local: local.write_bytes(data))


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_broken_server_is_tried_again(store, s3_server, name, caplog):
    store.write_bytes("parts/x", b"old")
    s3_server.refuse_next(1, s3.BROKEN)
    assert OPERATIONS[name](store) == RESULTS.get(name)
    assert len(warnings_of(caplog)) == 1


def test_a_busy_server_is_tried_again(store, s3_server, caplog):
    s3_server.refuse_next(6)  # s3fs itself tries five times
    store.write_bytes("parts/x", b"new")
    assert store.read_bytes("parts/x") == b"new"
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_refusal_is_an_error_at_once(store, s3_server, name, caplog):
    store.write_bytes("parts/x", b"old")
    s3_server.refuse_next(1, s3.DENIED)
    with pytest.raises(StoreError, match=r"s3://corpus/realm: .*parts.* failed \(.*\); expected credentials that may"):
        OPERATIONS[name](store)
    assert warnings_of(caplog) == []
    assert store.read_bytes("parts/x") == b"old"


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_missing_bucket_is_an_error_at_once(store, name, caplog):
    with pytest.raises(StoreError, match=r"s3://elsewhere/realm: no such bucket .*Make the bucket, or correct --store"):
        OPERATIONS[name](Store("s3://elsewhere/realm"))
    assert warnings_of(caplog) == []


def test_a_missing_file_is_an_error_at_once(store, caplog):
    for read in (store.read_bytes, store.local_file, store.read_json, store.local_folder):
        with pytest.raises(ArtifactMissingError, match="no parts/nothing"):
            read("parts/nothing")
    assert warnings_of(caplog) == []


def test_missing_credentials_are_an_error_at_once(store, monkeypatch, tmp_path, caplog):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    s3.S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreError, match=r"writing x failed .*redentials.*AWS_ACCESS_KEY_ID"):
        Store("s3://corpus").write_bytes("x", b"")
    assert warnings_of(caplog) == []


def test_four_processes_download_a_file_once(store, s3_server):
    store.write_bytes("parts/x", b"x" * 3_000_000)
    readers = [start_reader(store.url) for _ in range(4)]
    for reader in readers:
        reader.stdin.write("go\n")
        reader.stdin.flush()
    assert [reader.communicate(timeout=60)[0] for reader in readers] == ["3000000\n"] * 4
    assert s3_server.num_reads("corpus/realm/parts/x") == 1


def test_a_process_killed_while_downloading_leaves_neither_a_lock_nor_half_a_file(store, s3_server, tmp_path):
    store.write_bytes("parts/x", b"x" * 1_000_000)
    with s3_server.holding_back("/corpus/realm/parts/x") as asked:
        reader = start_reader(store.url)
        reader.stdin.write("go\n")
        reader.stdin.flush()
        assert asked.wait(timeout=30)
        reader.send_signal(signal.SIGKILL)
        reader.communicate(timeout=30)
    assert store.local_file("parts/x").read_bytes() == b"x" * 1_000_000
    assert [path.name for path in store.local_file("parts/x").parent.iterdir()] == ["x"]


def embeddings_in(store):
    """(spec, part, uids, embeddings), written."""
    part = PartEntry(digest="p" * 64, num_rows=40, num_tokens=1, first_block_id=0)
    spec = EmbeddingSpec(encoder_digest="e" * 64, precision="fp32")
    uids = np.frombuffer(np.random.default_rng(0).bytes(800), "V20")
    embeddings = np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32)
    write_embeddings(store, spec, part, uids, embeddings)
    return spec, part, uids, embeddings


def test_a_damaged_copy_in_the_cache_is_replaced(store):
    spec, part, _, embeddings = embeddings_in(store)
    copy = store.local_file(embedding_path(spec.digest(part.digest)))
    copy.write_bytes(copy.read_bytes()[:-9])
    np.testing.assert_array_equal(read_embeddings(store, spec.digest(part.digest), part)[1], embeddings)


def test_a_damaged_object_is_noticed_and_can_be_written_again(store):
    spec, part, uids, embeddings = embeddings_in(store)
    digest = spec.digest(part.digest)
    store.write_bytes(embedding_path(digest), store.read_bytes(embedding_path(digest))[:-9])
    with pytest.raises(ArtifactCorruptError, match=r"s3://corpus/realm/embeddings/"):
        read_embeddings(store, digest, part)
    write_embeddings(store, spec, part, uids, embeddings)
    np.testing.assert_array_equal(read_embeddings(store, digest, part)[1], embeddings)


def test_a_lease_that_cannot_be_given_back_ends_no_run_and_runs_out_by_itself(store, s3_server, caplog):
    with writer_lock(store, "realm embed"):
        assert store.read_json(LOCK_NAME)["command"] == "realm embed"
        s3_server.stop()
    assert any("giving back the lease of store s3://corpus/realm failed" in line for line in warnings_of(caplog))
    s3_server.start()
    assert store.read_json(LOCK_NAME)["expires_at"] < time.time() + LEASE_SECONDS


def test_a_lease_is_given_back(store):
    with writer_lock(store, "realm embed"):
        pass
    with writer_lock(store, "realm index"):
        assert store.read_json(LOCK_NAME)["command"] == "realm index"
    assert not store.exists(LOCK_NAME)
