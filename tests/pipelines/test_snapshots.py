import os
import time
from pathlib import Path

import pytest
from support.whole_snapshots import WholeStore, files_of, flip_byte

from pipelines.cli import main
from realm_core.modeling.checkpoints import load_encoder
from realm_core.storage.encoder_store import put_encoder
from realm_core.storage.files import Store
from realm_core.storage.snapshots import live_snapshot_id, load_snapshot, snapshot_path


@pytest.fixture
def whole(tmp_path, tiny_bert):
    whole = WholeStore(Store(str(tmp_path / "store")), tmp_path)
    encoder = load_encoder(str(tiny_bert))
    whole.encoder_digest = put_encoder(whole.store, encoder)
    return whole


@pytest.fixture
def ids(whole):
    """Three snapshots; the last is live."""
    return [whole.publish(step, encoder_digest=whole.encoder_digest, num_shards=step) for step in (1, 2, 3)]


@pytest.fixture
def realm(whole, capsys):
    """Runs `realm snapshots …` on the store; returns the exit code and what it printed."""

    def run(*arguments):
        code = 0
        try:
            main(["snapshots", *arguments, "--store", whole.store.url])
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


def line(out, start):
    """The line of a table that begins with it, without the frame."""
    lines = (one.strip("│ ") for one in out.splitlines())
    return next(one for one in lines if one.startswith(start))


def counts(out, kind):
    return next(one for one in out.splitlines() if one.startswith(f"│{kind} ")).split("│")[2].strip()


def test_list_shows_every_snapshot_and_which_is_live(realm, ids):
    code, out, _ = realm("list")
    assert code == 0
    states = [line(out, one).rstrip() for one in ids]
    assert states[0].endswith("was live")
    assert states[1].endswith("previous")
    assert states[2].endswith("live")
    assert "60" in states[0]
    assert "0.9700" in states[0]
    assert "1 faiss" in states[0]


def test_list_says_when_each_was_built(realm, whole, ids):
    two_hours_ago = time.time() - 2 * 3600
    os.utime(whole.store.full_path(snapshot_path(ids[1])), (two_hours_ago, two_hours_ago))
    out = realm("list")[1]
    title = next(one for one in out.splitlines() if one.startswith("snapshot "))
    built = [line(out, one)[title.index("built") :].split("  ")[0] for one in ids]
    assert built[1] == "2 h ago"
    assert built[2].endswith(" s ago")


def test_list_works_with_damaged_files(realm, whole, ids):
    whole.store.write_bytes("CURRENT", b"{")
    whole.store.write_bytes(snapshot_path(ids[0]), b"{")
    code, out, _ = realm("list")
    assert code == 0
    assert "manifest damaged" in line(out, ids[0])
    assert line(out, ids[2]).rstrip().endswith("?")


def test_show_tells_everything_of_the_live_one_unless_named(realm, whole, ids):
    code, out, _ = realm("show")
    assert code == 0
    assert ids[2] in out
    for fact in ("12.500% of the leaves", "recall@5", ">= 0.95", whole.encoder_digest[:12], whole.corpus.digest[:12]):
        assert fact in out
    assert ids[0] in realm("show", "step-000001")[1]


def test_show_marks_the_chosen_setting_and_folds_nothing(realm, ids):
    out = realm("show")[1]
    assert line(out, "chosen").split() == ["chosen", "12.50%", "200", "0.9800", "0.9700", "0.9500", "30.0", "28,354"]
    assert out.count("chosen") == 1
    assert "of the leaves  reordered  recall@1  recall@5" in out
    assert line(out, "6.25%").split()[-5:] == ["0.9800", "0.9000", "0.9500", "30.0", "66,380"]


def test_verify_ends_with_0_or_names_what_is_damaged_and_ends_with_1(realm, whole, ids):
    code, out, _ = realm("verify")
    assert code == 0
    assert out.strip().endswith("is as it was written.")
    index, embeddings = files_of(load_snapshot(whole.store, ids[0]))
    flip_byte(Path(whole.store.full_path(index)))
    assert realm("verify", "live")[0] == 0
    code, out, err = realm("verify", "--all")
    assert code == 1
    assert out.count("FAILED") == 1
    assert "as it was written" not in out
    assert all(one in out for one in ids)
    assert err.strip().splitlines()[-1].startswith("realm: realm snapshots verify: ")
    assert index in err
    whole.store.remove(embeddings)
    code, _, err = realm("verify", ids[0])
    assert code == 1
    assert embeddings in err


def test_diff_compares_two(realm, ids):
    code, out, _ = realm("diff", "previous", "live")
    assert code == 0
    assert ids[1] in out
    assert ids[2] in out
    assert line(out, "step ").rstrip().endswith("changed")
    assert not line(out, "corpus").rstrip().endswith("changed")
    assert line(out, "embedding files").split()[-3:] == ["3", "0", "0"]


def test_rollback_and_publish_say_what_was_live_and_what_is(realm, whole, ids):
    code, out, _ = realm("rollback")
    assert code == 0
    assert ids[2] in line(out, "live before")
    assert ids[1] in line(out, "live now")
    assert "within seconds" in out
    code, out, _ = realm("publish", "step-000003")
    assert code == 0
    assert live_snapshot_id(whole.store) == ids[2]
    assert "nothing changed" in realm("publish", ids[2])[1]


def test_a_snapshot_that_fails_its_gate_is_not_published(realm, whole, ids):
    index, embeddings = files_of(load_snapshot(whole.store, ids[0]))
    flip_byte(Path(whole.store.full_path(index)))
    whole.store.remove(embeddings)
    before = whole.store.read_bytes("CURRENT")
    code, _, err = realm("publish", ids[0])
    assert code == 1
    assert index in err
    assert embeddings in err
    assert "the live one goes on" in err
    assert whole.store.read_bytes("CURRENT") == before


def test_gc_says_that_a_snapshot_is_not_among_the_newest(realm, whole, ids):
    fourth = whole.publish(4, encoder_digest=whole.encoder_digest)
    out = realm("gc", "--keep", "1", "--dry-run")[1]
    assert "neither live nor previous, not among the newest 1, not being read" in line(out, ids[0])
    assert line(out, fourth).endswith("live, among the newest 1")


def test_gc_counts_add_up_and_a_dry_run_removes_nothing(realm, whole, ids):
    before = whole.store.sizes_bytes("snapshots")
    code, out, _ = realm("gc", "--keep", "0", "--dry-run")
    assert code == 0
    assert "dry run" in out
    assert counts(out, "snapshots") == "2 kept + 1 to remove = 3 found"
    assert "to remove  neither live nor previous, not being read" in line(out, ids[0])
    assert "without --dry-run" in out
    assert whole.store.sizes_bytes("snapshots") == before
    code, out, _ = realm("gc", "--keep", "0")
    assert counts(out, "snapshots") == "2 kept + 1 removed = 3 found"
    assert counts(out, "embedding files") == "3 kept + 0 removed = 3 found"
    assert "removed  neither live nor previous, not being read" in line(out, ids[0])
    assert [name.removesuffix(".json") for name in whole.store.list("snapshots")] == ids[1:]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("diff", "live"), "1 snapshot ids"),
        (("publish",), "no snapshot id"),
        (("publish", "a", "b"), "2 snapshot ids"),
        (("rollback", "a"), "1 snapshot ids"),
        (("list", "--all"), "--all"),
        (("verify", "a", "--all"), "--all with ids"),
        (("show", "--dry-run"), "--dry-run"),
        (("gc", "--keep", "-1"), "--keep -1"),
    ],
)
def test_what_makes_no_sense_is_refused(realm, arguments, found):
    code, _, err = realm(*arguments)
    assert code == 2
    assert found in err
    assert err.count("\n") == 1


def test_an_unknown_id_lists_those_that_exist(realm, ids):
    code, _, err = realm("show", "nope")
    assert code == 1
    assert all(one in err for one in ids)


def test_an_empty_store_says_what_to_run(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["snapshots", "list", "--store", str(tmp_path)])
    assert end.value.code == 1
    assert "realm ingest" in capsys.readouterr().err
