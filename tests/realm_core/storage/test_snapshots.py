import dataclasses

import pytest

from realm_core.errors import ArtifactCorruptError, StoreError
from realm_core.storage.files import Store
from realm_core.storage.snapshots import ShardEntry, SnapshotManifest, list_snapshots, load_snapshot, publish

MANIFEST = SnapshotManifest(
    corpus_digest="c",
    encoder_digest="e",
    encoder_step=20,
    precision="fp32",
    dimension=4,
    index_spec={"kind": "auto"},
    search_setting={"leaf_fraction": 0.125, "num_reordered": 200},
    tuning=[],
    shards=(
        ShardEntry(digest="s0", num_rows=3, first_block_id=0, kind="flat", num_bytes=48),
        ShardEntry(digest="s1", num_rows=2, first_block_id=3, kind="flat", num_bytes=32),
    ),
    embedding_digests=("a", "b"),
    encoder_saved_at_seconds=1.5,
    gate={},
)


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path))
    store.write_json("corpora/CURRENT", {"corpus": "c"})
    return store


def test_what_is_published_is_current_and_the_same_when_read(store):
    snapshot_id = publish(store, MANIFEST)
    assert snapshot_id.startswith("step-000020-")
    assert load_snapshot(store) == MANIFEST


def test_the_id_names_content_not_the_moment(store):
    later = dataclasses.replace(MANIFEST, encoder_saved_at_seconds=99.0)
    assert later.snapshot_id == MANIFEST.snapshot_id
    other = dataclasses.replace(MANIFEST, encoder_digest="f")
    assert other.snapshot_id != MANIFEST.snapshot_id


def test_publishing_moves_a_pointer_and_keeps_the_old_snapshot(store):
    first = publish(store, MANIFEST)
    second = publish(store, dataclasses.replace(MANIFEST, encoder_digest="f", encoder_step=40))
    assert load_snapshot(store).snapshot_id == second
    assert list_snapshots(store) == [first, second]
    assert load_snapshot(store, first) == MANIFEST


def test_an_unknown_snapshot_lists_the_known_ones(store):
    known = publish(store, MANIFEST)
    with pytest.raises(StoreError, match=f"no snapshot nope; expected one of {known}"):
        load_snapshot(store, "nope")


def test_an_empty_store_says_what_to_run(tmp_path, store):
    with pytest.raises(StoreError, match="Run `realm embed` and `realm index`"):
        load_snapshot(store)
    with pytest.raises(StoreError, match="no corpus"):
        load_snapshot(Store(str(tmp_path / "other")))


def test_another_search_setting_is_another_snapshot():
    tuned = dataclasses.replace(MANIFEST, search_setting={"leaf_fraction": 0.5, "num_reordered": 10})
    assert tuned.snapshot_id != MANIFEST.snapshot_id


@pytest.mark.parametrize("name", ["search_setting", "tuning", "gate"])
def test_a_manifest_of_an_older_version_says_what_to_run(name):
    values = {key: value for key, value in MANIFEST.to_json().items() if key != name}
    with pytest.raises(ArtifactCorruptError, match=f"without \\['{name}'\\].*run `realm index` again"):
        SnapshotManifest.from_json(values)


def test_a_shard_entry_of_an_older_version_says_what_to_run():
    values = MANIFEST.to_json()
    values["shards"] = [{"digest": "s0", "num_rows": 3, "first_block_id": 0}]
    with pytest.raises(ArtifactCorruptError, match=r"ShardEntry without \['kind', 'num_bytes'\]"):
        SnapshotManifest.from_json(values)
