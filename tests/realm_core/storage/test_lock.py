import json
import os
import signal
import subprocess
import sys
import time

import pytest

from realm_core.errors import StoreLockedError
from realm_core.storage.files import Store
from realm_core.storage.lock import LOCK_NAME, writer_lock

HOLD = """
import sys, time
from realm_core.storage.files import Store
from realm_core.storage.lock import writer_lock
with writer_lock(Store(sys.argv[1]), "realm embed"):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(url):
    process = subprocess.Popen([sys.executable, "-c", HOLD, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_writer_is_told_who_the_first_is_and_a_killed_one_frees_the_store(tmp_path):
    store = Store(str(tmp_path))
    process = holder(store.url)
    try:
        message = rf"`realm embed` \(process {process.pid} on"
        with pytest.raises(StoreLockedError, match=message), writer_lock(store, "realm index"):
            pass
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    with writer_lock(store, "realm index"):
        pass


def test_a_run_inside_a_run_of_the_same_process_passes(tmp_path):
    store = Store(str(tmp_path))
    with writer_lock(store, "realm demo"), writer_lock(store, "realm embed"):
        assert json.loads(store.read_bytes(LOCK_NAME))["command"] == "realm demo"


def test_a_remote_lease_is_respected_until_it_runs_out():
    store = Store("memory://lease")
    other = {"command": "realm embed", "host": "elsewhere", "pid": 1, "expires_at": time.time() + 60}
    store.write_json(LOCK_NAME, other)
    with pytest.raises(StoreLockedError, match="process 1 on elsewhere"), writer_lock(store, "realm index"):
        pass
    store.write_json(LOCK_NAME, {**other, "expires_at": time.time() - 1})
    with writer_lock(store, "realm index"):
        assert store.read_json(LOCK_NAME)["command"] == "realm index"
    assert not store.exists(LOCK_NAME)
