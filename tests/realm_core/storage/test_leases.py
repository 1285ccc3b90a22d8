import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from support import s3

from realm_core.errors import StoreError
from realm_core.storage import leases, remote_leases
from realm_core.storage.files import Store
from realm_core.storage.leases import claimed, is_being_read, reading
from realm_core.storage.snapshots import snapshot_path

s3_server = s3.s3_server

ID = "step-000020-abc"
READ = """
import sys, time
from realm_core.storage.files import Store
from realm_core.storage.leases import reading
lease = reading(Store(sys.argv[1]), sys.argv[2])
print("reads", flush=True)
time.sleep(60)
"""


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    if request.param == "local":
        store = Store(str(tmp_path / "store"))
    else:
        store = Store(f"{request.getfixturevalue('s3_server').make_bucket('snapshots')}/realm")
    store.write_json(snapshot_path(ID), {})
    return store


@pytest.fixture
def reader(store):
    process = subprocess.Popen([sys.executable, "-c", READ, store.url, ID], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "reads\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def is_free(store):
    with claimed(store, ID) as is_free:
        return is_free


def test_a_snapshot_is_being_read_until_every_lease_is_closed(store):
    assert not is_being_read(store, ID)
    first, second = reading(store, ID), reading(store, ID)
    assert first.is_held
    first.close()
    first.close()
    assert not first.is_held
    assert is_being_read(store, ID)
    assert not is_free(store)
    second.close()
    assert not is_being_read(store, ID)
    assert is_free(store)


def test_a_reader_that_is_killed_frees_its_snapshot_at_once(store, reader):
    assert is_being_read(store, ID)
    assert not is_free(store)
    os.kill(reader.pid, signal.SIGKILL)
    reader.wait()
    assert not is_being_read(store, ID)
    assert is_free(store)
    if not store.is_local:
        assert store.list(f"leases/{ID}") == []  # the dead reader's is gone too


def test_a_reader_of_what_is_gone_is_told_so_and_holds_nothing(store):
    store.remove(snapshot_path(ID))
    with pytest.raises(StoreError, match=f"no snapshot {ID}, or no longer.*`realm snapshots list`"):
        reading(store, ID)
    assert not is_being_read(store, ID)


def read_in_a_thread(store, outcomes):
    def read():
        try:
            outcomes.append(reading(store, ID))
        except StoreError as error:
            outcomes.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    return thread


def test_a_reader_that_comes_while_its_snapshot_is_removed_waits_and_is_told(store):
    outcomes = []
    with claimed(store, ID) as is_free:
        assert is_free
        thread = read_in_a_thread(store, outcomes)
        time.sleep(0.4)
        assert outcomes == []
        store.remove(snapshot_path(ID))
    thread.join(timeout=20)
    assert isinstance(outcomes[0], StoreError)
    assert not is_being_read(store, ID)


def test_a_reader_that_comes_while_a_claim_ends_without_removal_goes_on(store):
    outcomes = []
    with claimed(store, ID):
        thread = read_in_a_thread(store, outcomes)
        time.sleep(0.2)
    thread.join(timeout=20)
    with outcomes[0]:
        assert is_being_read(store, ID)


def test_a_snapshot_that_was_removed_and_made_again_is_held_by_its_new_lock(tmp_path):
    store = Store(str(tmp_path))
    store.write_json(snapshot_path(ID), {})
    outcomes = []
    with claimed(store, ID):
        thread = read_in_a_thread(store, outcomes)
        time.sleep(0.2)
        (tmp_path / "leases" / f"{ID}.lock").unlink()
    thread.join(timeout=20)
    assert is_being_read(store, ID)
    outcomes[0].close()


def test_a_lease_on_an_object_store_is_renewed_while_it_is_held_and_counts_no_longer_when_it_runs_out(monkeypatch):
    monkeypatch.setattr(remote_leases, "LEASE_SECONDS", 0.6)
    monkeypatch.setattr(remote_leases.socket, "gethostname", lambda: "reader")
    store = Store("memory://leases")
    store.write_json(snapshot_path(ID), {})
    with reading(store, ID):
        monkeypatch.setattr(remote_leases.socket, "gethostname", lambda: "collector")
        time.sleep(1.0)
        assert is_being_read(store, ID)
    dead = {"host": "reader", "pid": 1, "expires_at": time.time() - 1}
    store.write_json(f"leases/{ID}/reader-dead.json", dead)
    assert is_free(store)
    assert store.list(f"leases/{ID}") == []


def test_a_store_that_cannot_be_written_is_read_unprotected_and_says_so_once(s3_server, caplog, monkeypatch):
    monkeypatch.setattr(leases, "_warned_stores", set())
    store = Store(f"{s3_server.make_bucket('snapshots')}/realm")
    store.write_json(snapshot_path(ID), {})
    for _ in range(2):
        s3_server.refuse_next(1, s3.DENIED)
        with reading(store, ID) as lease:
            assert not lease.is_held
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "run no `realm snapshots gc` on it" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_read_unprotected(tmp_path, caplog):
    store = Store(str(tmp_path))
    store.write_json(snapshot_path(ID), {})
    tmp_path.chmod(0o500)
    try:
        with reading(store, ID) as lease:
            assert not lease.is_held
    finally:
        tmp_path.chmod(0o700)
