import os
import time
from contextlib import contextmanager

import pyarrow as pa
import pytest

from realm_core.errors import ArtifactCorruptError, ArtifactMissingError, StoreError
from realm_core.storage.files import Store
from realm_core.storage.parquet import read_table, write_table


def test_written_bytes_are_read_back_on_disk_and_in_memory(tmp_path):
    for url in (str(tmp_path / "store"), "memory://files-round-trip"):
        store = Store(url)
        store.write_bytes("a/b.bin", b"one")
        store.write_bytes("a/b.bin", b"two")
        assert store.read_bytes("a/b.bin") == b"two"
        assert store.list("a") == ["b.bin"]


def test_a_file_knows_when_it_was_written(tmp_path):
    for url in (str(tmp_path / "store"), "memory://files-written"):
        store = Store(url)
        before = time.time()
        store.write_bytes("a/b.bin", b"one")
        assert before - 1 < store.modified_at_seconds("a/b.bin") < time.time() + 1
        with pytest.raises(ArtifactMissingError, match=r"no a/c\.bin"):
            store.modified_at_seconds("a/c.bin")


def test_a_failed_write_leaves_nothing_and_keeps_the_old_file(tmp_path):
    store = Store(str(tmp_path))
    store.write_bytes("kept.bin", b"old")

    def half_write(path):
        path.write_bytes(b"ha")
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="No space"):
        store.write_file("kept.bin", half_write)
    assert store.read_bytes("kept.bin") == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["kept.bin"]


@pytest.mark.parametrize(
    ("path", "action"),
    [("parts/x.parquet", "Run `realm ingest` again"), ("snapshots/x.json", "Run the command that makes it again")],
)
def test_a_missing_file_says_what_to_do(tmp_path, path, action):
    with pytest.raises(ArtifactMissingError, match=rf"no {path}.*{action}"):
        Store(str(tmp_path)).read_bytes(path)


def test_a_broken_manifest_is_named(tmp_path):
    store = Store(str(tmp_path))
    store.write_bytes("CURRENT", b"{half")
    with pytest.raises(ArtifactCorruptError, match="CURRENT: 5 bytes that are no such JSON"):
        store.read_json("CURRENT")


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="a file where a folder is needed"):
        Store(str(tmp_path / "file")).write_bytes("x", b"")


def test_an_unknown_protocol_is_named():
    with pytest.raises(StoreError, match="nosuch"):
        Store("nosuch://bucket")


def test_a_folder_is_visible_only_when_its_manifest_is(tmp_path):
    source, seen = tmp_path / "source", []
    source.mkdir()
    for name in ("a.bin", "shard.json", "z.bin"):
        (source / name).write_text(name)

    class Watching(Store):
        def write_file(self, path, write):
            seen.append(path)
            super().write_file(path, write)

    Watching(str(tmp_path / "store")).put_folder(source, "indexes/x", last="shard.json")
    assert seen == ["indexes/x/a.bin", "indexes/x/z.bin", "indexes/x/shard.json"]


def test_a_remote_file_is_cached_once(tmp_path, monkeypatch):
    monkeypatch.setenv("REALM_CACHE", str(tmp_path))
    store = Store("memory://cached")
    store.write_bytes("parts/x", b"bytes")
    path = store.local_file("parts/x")
    store.remove("parts/x")
    assert path.read_bytes() == b"bytes"
    assert store.local_file("parts/x") == path


@contextmanager
def without_permission(path):
    """Takes this process's right to use a file or folder; root's too."""
    mode = path.stat().st_mode
    path.chmod(0)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        path.chmod(mode)


READS = {
    "exists": lambda store: store.exists("parts/x"),
    "list": lambda store: store.list("parts"),
    "read_bytes": lambda store: store.read_bytes("parts/x"),
    "local_file": lambda store: store.local_file("parts/x"),
    "remove": lambda store: store.remove("parts/x"),
}


@pytest.mark.parametrize("name", READS)
def test_a_folder_that_may_not_be_read_is_a_store_error(tmp_path, name):
    store = Store(str(tmp_path))
    store.write_bytes("parts/x", b"")
    message = r"parts.* failed \(.*ermission denied.*Correct the permissions or --store"
    with without_permission(tmp_path / "parts"), pytest.raises(StoreError, match=message):
        READS[name](store)
    assert store.read_bytes("parts/x") == b""


def test_a_table_that_may_not_be_read_is_not_taken_for_a_damaged_one(tmp_path):
    store = Store(str(tmp_path))
    write_table(store, "parts/x", pa.table({"a": [1]}))
    with without_permission(tmp_path / "parts"), pytest.raises(StoreError, match="ermission denied") as caught:
        read_table(store, "parts/x")
    assert not isinstance(caught.value, ArtifactCorruptError)


def test_a_folder_that_may_not_be_written_is_a_store_error(tmp_path):
    store = Store(str(tmp_path))
    store.write_bytes("parts/x", b"old")
    message = r"a write that failed \(.*ermission denied.*Make room or correct --store"
    with without_permission(tmp_path / "parts"), pytest.raises(StoreError, match=message):
        store.write_bytes("parts/x", b"new")
    assert store.read_bytes("parts/x") == b"old"


def test_a_cache_that_may_not_be_written_is_named_instead_of_the_store(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REALM_CACHE", str(tmp_path / "file"))
    store = Store("memory://no-cache")
    store.write_bytes("parts/x", b"")
    with pytest.raises(StoreError, match=r"cache .*file.*a file where a folder is needed.*Choose another REALM_CACHE"):
        store.local_file("parts/x")


def test_a_cached_copy_follows_what_is_written_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("REALM_CACHE", str(tmp_path))
    store = Store("memory://written-anew")
    store.write_bytes("parts/x", b"old")
    assert store.local_file("parts/x").read_bytes() == b"old"
    store.write_bytes("parts/x", b"new")
    assert store.local_file("parts/x").read_bytes() == b"new"


def test_leftovers_of_a_killed_download_are_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("REALM_CACHE", str(tmp_path))
    store = Store("memory://leftovers")
    store.write_bytes("parts/x", b"whole")
    folder = store.local_file("parts/x").parent
    (folder / "x").unlink()
    (folder / "x.tmp-1-00000000").write_bytes(b"ha")
    assert store.local_file("parts/x").read_bytes() == b"whole"
    assert [path.name for path in folder.iterdir()] == ["x"]
