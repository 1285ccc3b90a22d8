import pytest

from realm_core.errors import ArtifactCorruptError, ArtifactMissingError, StoreError
from realm_core.storage.files import Store


def test_written_bytes_are_read_back_on_disk_and_in_memory(tmp_path):
    for url in (str(tmp_path / "store"), "memory://files-round-trip"):
        store = Store(url)
        store.write_bytes("a/b.bin", b"one")
        store.write_bytes("a/b.bin", b"two")
        assert store.read_bytes("a/b.bin") == b"two"
        assert store.list("a") == ["b.bin"]


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


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(ArtifactMissingError, match=r"no parts/x\.parquet.*Run the command"):
        Store(str(tmp_path)).read_bytes("parts/x.parquet")


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
