import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from realm_core.errors import ArtifactCorruptError, ArtifactMissingError, BlockError, StoreError
from realm_core.storage.block_store import PartEntry
from realm_core.storage.embedding_store import (
    EmbeddingSpec,
    embedding_digest,
    embedding_path,
    embeddings_are_whole,
    read_embeddings,
    write_embeddings,
)
from realm_core.storage.files import Store

NUM_ROWS, DIMENSION = 50, 16
PART = PartEntry(digest="a" * 64, num_rows=NUM_ROWS, num_tokens=1, first_block_id=0)
OTHER_PART = PartEntry(digest="b" * 64, num_rows=NUM_ROWS, num_tokens=1, first_block_id=0)
SPEC = EmbeddingSpec(encoder_digest="c" * 64, precision="fp32")
HALF = EmbeddingSpec(encoder_digest="c" * 64, precision="bf16/float16")
UIDS = np.frombuffer(np.random.default_rng(0).bytes(NUM_ROWS * 20), "V20")
EMBEDDINGS = np.random.default_rng(1).normal(size=(NUM_ROWS, DIMENSION)).astype(np.float32)
WRITE = """
import sys
from realm_core.storage.files import Store
from realm_core.storage.embedding_store import write_embeddings
sys.path.insert(0, {folder!r})
from test_embedding_store import EMBEDDINGS, PART, SPEC, UIDS
{before}
write_embeddings(Store(sys.argv[1]), SPEC, PART, UIDS, EMBEDDINGS)
"""


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def write(store, spec=SPEC, part=PART, embeddings=EMBEDDINGS):
    """The digest of what was written."""
    write_embeddings(store, spec, part, UIDS, embeddings)
    return spec.digest(part.digest)


def write_in_another_process(store, before=""):
    folder = str(Path(__file__).parent)
    command = [sys.executable, "-c", WRITE.format(folder=folder, before=before), store.url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def file_of(store, digest):
    """(path on disk, bytes)."""
    path = store.local_file(embedding_path(digest))
    return path, path.read_bytes()


def test_bits_survive(store):
    uids, embeddings = read_embeddings(store, write(store), PART)
    assert uids.tobytes() == UIDS.tobytes()
    assert embeddings.tobytes() == EMBEDDINGS.tobytes()
    assert embeddings.dtype == np.float32


def test_float16_comes_back_as_float32_of_the_same_value(store):
    uids, embeddings = read_embeddings(store, write(store, HALF), PART)
    assert uids.tobytes() == UIDS.tobytes()
    assert embeddings.dtype == np.float32
    np.testing.assert_array_equal(embeddings, EMBEDDINGS.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("spec", [SPEC, HALF])
def test_writing_again_gives_the_same_bytes(store, spec):
    path, before = file_of(store, write(store, spec))
    write(store, spec)
    assert path.read_bytes() == before


def test_another_process_writes_the_same_bytes(store):
    path, before = file_of(store, write(store))
    path.unlink()
    done = write_in_another_process(store)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize(("spec", "value_type"), [(SPEC, pa.float32()), (HALF, pa.float16())])
def test_a_file_says_what_it_is_by_itself(store, spec, value_type):
    path, _ = file_of(store, write(store, spec))
    metadata = pq.read_metadata(path).metadata
    assert {k: v for k, v in metadata.items() if k not in (b"ARROW:schema", b"realm.seal")} == {
        b"realm.format": b"1",
        b"realm.part": b"a" * 64,
        b"realm.encoder": b"c" * 64,
        b"realm.precision": spec.precision.encode(),
    }
    schema = pq.read_schema(path)
    assert schema.names == ["uid", "embedding"]
    assert schema.field("uid").type == pa.binary(20)
    assert schema.field("embedding").type == pa.list_(pa.field("element", value_type, nullable=False), DIMENSION)


def test_a_name_depends_on_part_encoder_and_precision():
    names = {embedding_digest(p, e, a) for p in "xy" for e in "xy" for a in ("fp32", "int8")}
    assert len(names) == 8
    assert EmbeddingSpec(encoder_digest="e", precision="fp32").digest("p") == embedding_digest("p", "e", "fp32")


@pytest.mark.parametrize("spec", [SPEC, HALF])
def test_a_flipped_bit_in_any_byte_is_noticed(store, spec):
    digest = write(store, spec)
    path, whole = file_of(store, digest)
    footer_start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    assert 0 < footer_start < len(whole) - 500
    for position in [*range(0, footer_start, 7), *range(footer_start, len(whole))]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(ArtifactCorruptError):
            read_embeddings(store, digest, PART)
    path.write_bytes(whole)
    assert embeddings_are_whole(store, digest, PART)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:100], lambda data: b"", lambda data: data * 2]
)
def test_a_file_of_another_length_is_noticed(store, damage):
    digest = write(store)
    path, whole = file_of(store, digest)
    path.write_bytes(damage(whole))
    with pytest.raises(ArtifactCorruptError, match=r"embeddings/.*Remove it and run"):
        read_embeddings(store, digest, PART)
    assert not embeddings_are_whole(store, digest, PART)


def test_a_file_that_another_program_wrote_is_not_taken_for_ours(store, tmp_path):
    digest = write(store)
    path, _ = file_of(store, digest)
    pq.write_table(pq.read_table(path), path)
    with pytest.raises(ArtifactCorruptError, match=r"the seal|own SHA-256"):
        read_embeddings(store, digest, PART)


def test_another_number_of_rows_is_an_error(store):
    digest = write(store)
    other = PartEntry(digest=PART.digest, num_rows=51, num_tokens=1, first_block_id=0)
    with pytest.raises(ArtifactCorruptError, match="50 rows; expected 51 rows"):
        read_embeddings(store, digest, other)


def test_a_file_copied_under_the_name_of_another_part_is_noticed(store):
    path, _ = file_of(store, write(store))
    digest = SPEC.digest(OTHER_PART.digest)
    shutil.copy(path, path.parent / f"{digest}.parquet")
    with pytest.raises(ArtifactCorruptError, match=r"embeddings of part aaaa.*; expected those of part bbbb"):
        read_embeddings(store, digest, OTHER_PART)


@pytest.mark.parametrize(
    "other",
    [
        EmbeddingSpec(encoder_digest="d" * 64, precision="fp32"),
        EmbeddingSpec(encoder_digest="c" * 64, precision="bf16"),
    ],
)
def test_a_file_copied_under_the_name_of_another_encoder_or_arithmetic_is_noticed(store, other):
    path, _ = file_of(store, write(store))
    shutil.copy(path, path.parent / f"{other.digest(PART.digest)}.parquet")
    with pytest.raises(ArtifactCorruptError, match=r"embeddings of encoder cccc.* in fp32; expected those of"):
        read_embeddings(store, other.digest(PART.digest), PART)


def test_what_is_not_there_is_missing(store):
    with pytest.raises(ArtifactMissingError):
        read_embeddings(store, SPEC.digest(PART.digest), PART)
    assert not embeddings_are_whole(store, SPEC.digest(PART.digest), PART)


@pytest.mark.parametrize("value", [65505.0, -70000.0, np.inf, np.nan])
def test_what_float16_cannot_hold_is_an_error_and_nothing_is_written(store, value):
    embeddings = EMBEDDINGS.copy()
    embeddings[[3, 7], 5] = value
    with pytest.raises(
        BlockError, match=r"in row 3, and 2 rows like it in all; expected values from -65504 to 65504"
    ) as caught:
        write(store, HALF, embeddings=embeddings)
    assert caught.value.rows == (3, 7)
    assert store.list("embeddings") == []


def test_the_largest_float16_is_held(store):
    embeddings = EMBEDDINGS.copy()
    embeddings[0, :2] = 65504, -65504
    assert read_embeddings(store, write(store, HALF, embeddings=embeddings), PART)[1][0, :2].tolist() == [65504, -65504]


def test_rows_that_do_not_fit_the_part_are_refused(store):
    with pytest.raises(ValueError, match="50 uids and 49 embeddings for a part of 50 rows"):
        write(store, embeddings=EMBEDDINGS[:49])


def test_a_full_disk_is_an_error_and_leaves_nothing_behind(store):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))"
    done = write_in_another_process(store, before=limit)
    assert "StoreError: store" in done.stderr
    assert "File too large); expected a place that can be written, with room on it. Make room" in done.stderr
    assert list(Path(store.url, "embeddings").iterdir()) == []


def test_a_folder_in_place_of_the_file_is_a_store_error_not_damage(store):
    digest = write(store)
    path, _ = file_of(store, digest)
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError, match=r"reading .* failed \(\[Errno 21\]") as caught:
        read_embeddings(store, digest, PART)
    assert not isinstance(caught.value, ArtifactCorruptError)
