import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from realm_core.storage.retention import Artifacts, artifacts_of, plan_removal
from realm_core.storage.snapshots import ShardEntry, SnapshotManifest

DIGESTS = st.frozensets(st.integers(0, 9).map(str), max_size=5)
ARTIFACTS = st.builds(Artifacts, shards=DIGESTS, embeddings=DIGESTS, encoders=DIGESTS)
IDS = st.sampled_from("abcdef")


@st.composite
def manifests(draw):
    shards = draw(DIGESTS)
    return SnapshotManifest(
        corpus_digest="c",
        encoder_digest=draw(st.integers(0, 9).map(str)),
        encoder_step=draw(st.integers(0, 3)),
        precision="fp32",
        dimension=4,
        index_spec={},
        search_setting={},
        tuning=[],
        shards=tuple(ShardEntry(digest=d, num_rows=1, first_block_id=0, kind="flat", num_bytes=1) for d in shards),
        embedding_digests=tuple(draw(DIGESTS)),
        encoder_saved_at_seconds=float(draw(st.integers(0, 3))),
        gate={},
    )


@given(
    snapshots=st.dictionaries(IDS, manifests(), max_size=6),
    stored=ARTIFACTS,
    live=st.none() | IDS,
    previous=st.none() | IDS,
    num_newest=st.integers(0, 8),
    pinned=st.dictionaries(IDS, st.just("being read"), max_size=2),
    named_elsewhere=ARTIFACTS,
)
def test_nothing_that_is_needed_is_removed_and_the_counts_add_up(
    snapshots, stored, live, previous, num_newest, pinned, named_elsewhere
):
    options = {
        "live": live,
        "previous": previous,
        "num_newest": num_newest,
        "pinned": pinned,
        "named_elsewhere": named_elsewhere,
    }
    plan = plan_removal(snapshots, stored, **options)
    assert sorted([*plan.kept, *plan.removed]) == sorted(snapshots)
    assert not {live, previous, *pinned} & set(plan.removed)
    assert len(plan.kept) >= min(num_newest, len(snapshots))
    needed = artifacts_of(*(snapshots[one] for one in plan.kept)) | named_elsewhere
    for kind in ("shards", "embeddings", "encoders"):
        gone, all_of_them = getattr(plan.artifacts, kind), getattr(stored, kind)
        assert not gone & getattr(needed, kind)
        assert gone | (getattr(needed, kind) & all_of_them) == all_of_them
    rest = {one: snapshots[one] for one in plan.kept}
    again = plan_removal(rest, stored - plan.artifacts, **options)
    assert (again.removed, again.artifacts) == ((), Artifacts())


def test_the_newest_are_those_whose_encoder_left_training_last():
    def saved_at(seconds, step):
        return dataclasses.replace(EMPTY, encoder_saved_at_seconds=seconds, encoder_step=step)

    snapshots = {"a": saved_at(3.0, 1), "b": saved_at(1.0, 9), "c": saved_at(2.0, 5), "d": saved_at(0.0, 2)}
    plan = plan_removal(
        snapshots, Artifacts(), live="b", previous="d", num_newest=1, pinned={}, named_elsewhere=Artifacts()
    )
    assert plan.kept == {"d": "previous", "b": "live", "a": "among the newest 1"}
    assert plan.removed == ("c",)


EMPTY = SnapshotManifest(
    corpus_digest="c",
    encoder_digest="e",
    encoder_step=0,
    precision="fp32",
    dimension=4,
    index_spec={},
    search_setting={},
    tuning=[],
    shards=(),
    embedding_digests=(),
    encoder_saved_at_seconds=0.0,
    gate={},
)
