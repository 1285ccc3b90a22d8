import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from support import s3
from support.whole_snapshots import WholeStore, files_of, flip_byte

from realm_core.errors import GateError
from realm_core.index.snapshot_check import check_snapshot, check_stored_snapshot
from realm_core.modeling.checkpoints import load_encoder
from realm_core.storage.embedding_store import embedding_path
from realm_core.storage.encoder_store import encoder_path, put_encoder
from realm_core.storage.files import Store
from realm_core.storage.snapshots import publish, shard_path, snapshot_path

s3_server = s3.s3_server


@pytest.fixture
def whole(tmp_path):
    return WholeStore(Store(str(tmp_path / "store")), tmp_path)


@pytest.fixture
def encoder_digest(whole, tiny_bert):
    encoder = load_encoder(str(tiny_bert))
    return put_encoder(whole.store, encoder)


@pytest.fixture
def manifest(whole, encoder_digest):
    return whole.make(7, encoder_digest=encoder_digest)


def failed(report):
    return {check.name: (check.found, check.expected) for check in report.checks if not check.passed}


def local(store, path):
    return Path(store.full_path(path))


def test_a_whole_snapshot_passes_every_check_and_says_how_far_it_is(whole, manifest):
    seen = []
    report = check_snapshot(whole.store, manifest, progress=lambda done, total: seen.append((done, total)))
    assert failed(report) == {}
    assert seen == [(number, 6) for number in range(1, 7)]  # two shards, three parts, the encoder
    names = [check.name for check in report.checks]
    assert names[0] == "corpus manifest"
    assert {"rows of shards", "embedded rows", "uid digest", "encoder digest", "recall@5"} <= set(names)
    assert len([name for name in names if name.startswith("index shard")]) == 2


def test_all_damaged_files_are_named_not_the_first_alone(whole, manifest):
    store = whole.store
    index, embeddings = files_of(manifest)
    flip_byte(local(store, index))
    cut = local(store, f"{shard_path(manifest.shards[1].digest)}/index.bin")
    cut.write_bytes(cut.read_bytes()[:-1])
    store.remove(f"{shard_path(manifest.shards[1].digest)}/description.json")
    flip_byte(local(store, embeddings))
    cut_embeddings, gone_embeddings = map(embedding_path, manifest.embedding_digests[1:])
    local(store, cut_embeddings).write_bytes(local(store, cut_embeddings).read_bytes()[:500])
    store.remove(gone_embeddings)
    problems = failed(check_snapshot(store, manifest))
    assert set(problems) == {
        index,
        f"{shard_path(manifest.shards[1].digest)}/index.bin",
        f"{shard_path(manifest.shards[1].digest)}/description.json",
        embeddings,
        cut_embeddings,
        gone_embeddings,
        "parts whose embeddings are damaged",
        "embedded rows",
        "uid digest",
    }
    assert problems[index][0].startswith("sha256 ")
    assert problems[f"{shard_path(manifest.shards[1].digest)}/index.bin"] == ("3,199 bytes", "3,200 bytes")
    assert problems[f"{shard_path(manifest.shards[1].digest)}/description.json"] == ("no such file", "17 bytes")
    assert "SHA-256" in problems[embeddings][0]
    assert problems[gone_embeddings][0] == "no such file"
    assert problems["embedded rows"] == (0, 60)


@pytest.mark.parametrize("offset", [0, 40, 900, -1])
def test_a_flipped_byte_is_found_wherever_it_is_in_the_embeddings(whole, manifest, offset):
    _, embeddings = files_of(manifest)
    flip_byte(local(whole.store, embeddings), offset)
    assert embeddings in failed(check_snapshot(whole.store, manifest))


@pytest.mark.parametrize(
    ("value", "found"), [(0.0, "all zeros in the embedding of row 3"), (np.nan, "NaN or infinity"), (np.inf, "NaN or")]
)
def test_rows_that_cannot_be_searched_are_found(whole, manifest, encoder_digest, value, found):
    part = whole.corpus.parts[1]

    def change(rows):
        rows[3] = value
        return rows

    digest = whole.embed(part, encoder_digest, change)
    assert found in failed(check_snapshot(whole.store, manifest))[embedding_path(digest)][0]


def test_embeddings_of_another_encoder_are_found(whole, manifest):
    other = whole.embed(whole.corpus.parts[0], "other")
    mixed = dataclasses.replace(manifest, embedding_digests=(other, *manifest.embedding_digests[1:]))
    problems = failed(check_snapshot(whole.store, mixed))
    assert set(problems) == {f"encoder digest of {embedding_path(other)}", "parts whose embeddings are damaged"}


def test_a_manifest_for_another_corpus_is_found(whole, manifest):
    whole.ingest(range(70))
    other = dataclasses.replace(manifest, corpus_digest=whole.corpus.digest)
    problems = failed(check_snapshot(whole.store, other))
    assert problems["rows of shards"] == (60, 70)
    assert problems["embedded rows"][1] == 70
    assert "uid digest" in problems


def test_wrong_row_counts_and_missing_parts_are_found(whole, manifest):
    first = dataclasses.replace(manifest.shards[0], num_rows=manifest.shards[0].num_rows + 1)
    wrong = dataclasses.replace(
        manifest, shards=(first, *manifest.shards[1:]), embedding_digests=manifest.embedding_digests[:2]
    )
    problems = failed(check_snapshot(whole.store, wrong))
    assert problems["rows of shards"] == (61, 60)
    assert problems["embedded parts"] == (2, 3)
    assert problems[f"index shard {first.digest[:12]}, rows"] == (first.num_rows - 1, first.num_rows)
    assert "uid digest" in problems


def test_a_wrong_width_is_found(whole, manifest):
    problems = failed(check_snapshot(whole.store, dataclasses.replace(manifest, dimension=9)))
    assert all("8 dimensions" in problems[embedding_path(digest)][0] for digest in manifest.embedding_digests)


def test_a_shard_or_corpus_without_its_manifest_is_found(whole, manifest):
    path = f"{shard_path(manifest.shards[0].digest)}/shard.json"
    whole.store.remove(path)
    corpus = f"corpora/{manifest.corpus_digest}.json"
    whole.store.remove(corpus)
    assert set(failed(check_snapshot(whole.store, manifest))) == {path, corpus}


def test_an_encoder_that_is_missing_cut_or_another_is_found(whole, manifest, encoder_digest):
    folder = encoder_path(encoder_digest)
    weights = local(whole.store, f"{folder}/model.safetensors")
    data = weights.read_bytes()
    flip_byte(weights, len(data) - 10)
    assert "weights with the digest" in failed(check_snapshot(whole.store, manifest))[folder][0]
    weights.write_bytes(data[:-5])
    assert list(failed(check_snapshot(whole.store, manifest))) == [folder]
    whole.store.remove(folder)
    assert list(failed(check_snapshot(whole.store, manifest))) == [folder]


def test_recall_below_its_bar_or_never_measured_is_found(whole, encoder_digest):
    low = whole.make(7, encoder_digest=encoder_digest, recall=0.5)
    assert failed(check_snapshot(whole.store, low)) == {"recall@5": (0.5, ">= 0.95")}
    assert list(failed(check_snapshot(whole.store, dataclasses.replace(low, gate={})))) == ["recall@5"]


def test_one_error_names_all_that_failed(whole, manifest):
    index, embeddings = files_of(manifest)
    flip_byte(local(whole.store, index))
    whole.store.remove(embeddings)
    with pytest.raises(GateError) as caught:
        check_snapshot(whole.store, manifest).raise_if_failed("snapshot x")
    for name in (index, embeddings, "uid digest"):
        assert name in caught.value.found


def test_a_manifest_that_is_damaged_or_under_another_name_is_found(whole, manifest):
    snapshot_id = publish(whole.store, manifest)
    assert check_stored_snapshot(whole.store, snapshot_id).passed
    value = json.loads(whole.store.read_bytes(snapshot_path(snapshot_id)))
    whole.store.write_json(snapshot_path(snapshot_id), {**value, "encoder_step": 8})
    found, expected = failed(check_stored_snapshot(whole.store, snapshot_id))["id of the manifest"]
    assert re.match("step-000008-", found)
    assert expected == snapshot_id
    whole.store.write_bytes(snapshot_path(snapshot_id), b'{"shards"')
    assert list(failed(check_stored_snapshot(whole.store, snapshot_id))) == [f"manifest {snapshot_id}"]


def test_damage_in_an_object_store_is_seen_behind_the_whole_copies_of_this_machine(s3_server, tmp_path, tiny_bert):
    whole = WholeStore(Store(f"{s3_server.make_bucket('snapshots')}/realm"), tmp_path)
    encoder = load_encoder(str(tiny_bert))
    digest = put_encoder(whole.store, encoder)
    manifest = whole.make(7, encoder_digest=digest)
    assert failed(check_snapshot(whole.store, manifest)) == {}
    paths = [*files_of(manifest), f"{encoder_path(digest)}/model.safetensors"]
    for path in paths:
        whole.store.local_file(path)
        data = bytearray(whole.store.read_bytes(path))
        data[-200] ^= 1
        whole.store.fs.pipe_file(whole.store.full_path(path), bytes(data))
    assert {*paths[:2], encoder_path(digest)} <= set(failed(check_snapshot(whole.store, manifest)))
