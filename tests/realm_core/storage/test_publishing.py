import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import s3

from realm_core.errors import ArtifactCorruptError, StoreError
from realm_core.storage.files import Store
from realm_core.storage.publishing import publish_existing, rollback
from realm_core.storage.snapshot_pointer import MAX_HISTORY, SnapshotPointer, read_pointer
from realm_core.storage.snapshots import (
    list_snapshots,
    live_snapshot_id,
    load_snapshot,
    previous_snapshot_id,
    publish,
    resolve_snapshot_id,
    snapshot_path,
)

s3_server = s3.s3_server


def pointer_bytes(store):
    return store.read_bytes("CURRENT")


def test_two_rollbacks_go_back_two_and_a_third_says_that_there_is_nothing(whole):
    store = whole.store
    first, second, third = (whole.publish(step) for step in (1, 2, 3))
    assert previous_snapshot_id(store) == second
    move = rollback(store)
    assert (move.before, move.after, live_snapshot_id(store)) == (third, second, second)
    assert rollback(store).after == first
    assert previous_snapshot_id(store) is None
    before = pointer_bytes(store)
    with pytest.raises(StoreError, match=r"no snapshot that was live before.*`realm snapshots publish ID`"):
        rollback(store)
    assert pointer_bytes(store) == before
    assert list_snapshots(store) == [first, second, third]


def test_publishing_what_is_live_changes_nothing(whole):
    whole.publish(1)
    snapshot_id = whole.publish(2)
    before = pointer_bytes(whole.store)
    publish(whole.store, load_snapshot(whole.store, snapshot_id))
    move = publish_existing(whole.store, snapshot_id)
    assert move.before == move.after == snapshot_id
    assert pointer_bytes(whole.store) == before


def test_going_back_passes_over_snapshots_that_are_gone(local):
    first, second, _ = (local.publish(step) for step in (1, 2, 3))
    local.store.remove(snapshot_path(second))
    assert previous_snapshot_id(local.store) == first
    assert rollback(local.store).after == first


def test_a_pointer_from_before_there_was_a_history_is_read(local):
    first, second = local.publish(1), local.publish(2)
    local.store.write_json("CURRENT", {"snapshot": first})
    assert live_snapshot_id(local.store) == first
    assert previous_snapshot_id(local.store) is None
    publish_existing(local.store, second)
    assert previous_snapshot_id(local.store) == first


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"snapshot": 3}', b'{"snapshot": "a", "history": [1]}', b'{"history": []}']
)
def test_a_damaged_pointer_says_what_to_do_and_publishing_mends_it(local, data):
    snapshot_id = local.publish(1)
    local.store.write_bytes("CURRENT", data)
    for read in (live_snapshot_id, rollback, load_snapshot):
        with pytest.raises(ArtifactCorruptError, match=r"CURRENT.*`realm snapshots publish --store .* ID`"):
            read(local.store)
    move = publish_existing(local.store, snapshot_id)
    assert (move.before, live_snapshot_id(local.store)) == (None, snapshot_id)


def test_a_live_snapshot_without_a_manifest_is_named_and_rolling_back_mends_it(local):
    first, second = local.publish(1), local.publish(2)
    local.store.remove(snapshot_path(second))
    with pytest.raises(StoreError, match=f"{second}, which has no manifest; expected one of {first}.*rollback"):
        load_snapshot(local.store)
    assert rollback(local.store).after == first
    assert load_snapshot(local.store).encoder_step == 1


def test_publishing_from_a_build_mends_a_damaged_manifest(local):
    manifest = local.make(1)
    snapshot_id = publish(local.store, manifest)
    local.store.write_bytes(snapshot_path(snapshot_id), b'{"shards": ')
    with pytest.raises(ArtifactCorruptError, match=re.escape(snapshot_path(snapshot_id))):
        load_snapshot(local.store)
    publish(local.store, manifest)
    assert load_snapshot(local.store) == manifest


def test_publishing_what_is_not_there_changes_nothing(local):
    local.publish(1)
    before = pointer_bytes(local.store)
    with pytest.raises(StoreError, match="no snapshot step-000009-x"):
        publish_existing(local.store, "step-000009-x")
    assert pointer_bytes(local.store) == before


def test_snapshots_have_short_names(local):
    first, second = local.publish(1), local.publish(2)
    names = {"live": second, "previous": first, first: first, "step-000001": first}
    assert {name: resolve_snapshot_id(local.store, name) for name in names} == names
    with pytest.raises(StoreError, match="2 snapshots that begin with step-"):
        resolve_snapshot_id(local.store, "step-")
    for unknown in ("step-000003", ""):
        with pytest.raises(StoreError, match=f"no snapshot {unknown}; expected one of {first}, {second}"):
            resolve_snapshot_id(local.store, unknown)
    local.store.write_json("CURRENT", {"snapshot": first})
    with pytest.raises(StoreError, match="no snapshot that was live before"):
        resolve_snapshot_id(local.store, "previous")


def test_the_pointer_is_readable_json(local):
    first, second = local.publish(1), local.publish(2)
    value = json.loads(pointer_bytes(local.store))
    assert (value["snapshot"], value["history"]) == (second, [first])
    assert value["published_at_seconds"] > 1e9


ids = st.sampled_from("abcdef")


@given(st.lists(ids, min_size=1, max_size=12))
def test_rolling_back_undoes_publishing(published):
    pointers = [SnapshotPointer(snapshot=published[0])]
    for one in published[1:]:
        after = pointers[-1].published(one, now_seconds=1.0)
        if after != pointers[-1]:
            pointers.append(after)
    while len(pointers) > 1:
        back = pointers.pop().rolled_back("abcdef", now_seconds=1.0)
        assert (back.snapshot, back.history) == (pointers[-1].snapshot, pointers[-1].history)
    assert pointers[0].rolled_back("abcdef", now_seconds=1.0) is None


@given(st.lists(ids, min_size=1, max_size=12), st.sets(ids))
def test_rolling_back_ends_and_leads_only_to_what_is_there(published, existing):
    pointer = SnapshotPointer(snapshot=published[0])
    for one in published[1:]:
        pointer = pointer.published(one, now_seconds=1.0)
    while (back := pointer.rolled_back(existing, now_seconds=1.0)) is not None:
        assert back.snapshot in existing
        assert len(back.history) < len(pointer.history)
        pointer = back


def test_the_history_is_bounded():
    pointer = SnapshotPointer(snapshot="0")
    for number in range(1, 300):
        pointer = pointer.published(str(number), now_seconds=1.0)
    assert pointer.history == tuple(str(number) for number in range(299 - MAX_HISTORY, 299))


def test_reading_nothing_gives_none(tmp_path):
    assert read_pointer(Store(str(tmp_path))) is None
