import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from support.snapshots import SyntheticStore
from support.stand_in_engines import DIMENSION, StandInLoader

from realm_core.engines.block_failures import MAX_NAMED, error_of_run
from realm_core.engines.completeness import check_embedded
from realm_core.engines.engine import Work
from realm_core.engines.part_embedder import NUM_REPEATED_ROWS, PartEmbedder
from realm_core.errors import ArtifactMissingError, BlockError, EncoderError
from realm_core.storage.block_store import part_path, read_part
from realm_core.storage.digests import fixed_binary_to_numpy
from realm_core.storage.embedding_store import embedding_path, read_embeddings

BAD_TOKEN = 333
"""Only the body of block "body 333" has it."""


@pytest.fixture
def filled(tmp_path):
    return SyntheticStore(tmp_path, num_blocks=400, num_parts=3)


def embedder(filled, precision="fp32", **faults):
    return PartEmbedder(filled.store, StandInLoader(**faults), precision)


def part_with(filled, token):
    """The part, the row and the uid of the block with that token."""
    for part in filled.corpus.parts:
        table = read_part(filled.store, part, ["uid", "body_token_ids"])
        rows = [row for row, tokens in enumerate(table["body_token_ids"].to_pylist()) if token in tokens]
        if rows:
            return part, rows[0], bytes(fixed_binary_to_numpy(table["uid"])[rows[0]]).hex()
    raise AssertionError(f"no block has token {token}")


def test_a_part_is_made_then_reused_then_mended(filled):
    part, worker = filled.corpus.parts[0], embedder(filled)
    made = worker.embed(part, "e")
    bytes_made = filled.store.read_bytes(embedding_path(made.embedding_digest))
    assert (made.outcome, made.work.num_rows, made.num_repeated_rows) == ("made", part.num_rows, NUM_REPEATED_ROWS)
    reused = worker.embed(part, "e")
    assert (reused.outcome, reused.work, reused.was_reused) == ("reused", Work(), True)
    assert reused.uids.tobytes() == made.uids.tobytes()
    for damaged in (bytes_made[:-100], bytes_made[:500] + bytes([bytes_made[500] ^ 1]) + bytes_made[501:]):
        filled.store.write_bytes(embedding_path(made.embedding_digest), damaged)
        assert worker.embed(part, "e").outcome == "mended"
        assert filled.store.read_bytes(embedding_path(made.embedding_digest)) == bytes_made


def test_progress_adds_up_over_parts_and_counts_no_reused_ones(filled):
    worker = embedder(filled)
    assert worker.progress.peak_flops_per_second == 0
    parts = [worker.embed(part, "e") for part in filled.corpus.parts]
    assert worker.progress.work == sum((part.work for part in parts), Work())
    assert worker.progress.work.num_rows == 400
    assert worker.progress.peak_flops_per_second == 1e9
    worker.embed(filled.corpus.parts[0], "e")
    assert worker.progress.work.num_rows == 400


def test_float16_is_another_artifact_of_the_same_embeddings(filled):
    part = filled.corpus.parts[0]
    full, half = embedder(filled).embed(part, "e"), embedder(filled, "fp32/float16").embed(part, "e")
    assert full.embedding_digest != half.embedding_digest
    embeddings = read_embeddings(filled.store, full.embedding_digest, part)[1]
    rounded = read_embeddings(filled.store, half.embedding_digest, part)[1]
    assert rounded.tobytes() == embeddings.astype(np.float16).astype(np.float32).tobytes()


@pytest.mark.parametrize(
    ("faults", "what"),
    [({"fails_at": BAD_TOKEN}, "no way through"), ({"makes_nan_of": BAD_TOKEN}, "NaN or infinity in the embedding")],
)
def test_a_block_that_cannot_be_embedded_is_named_by_id_uid_and_title(filled, faults, what):
    part, row, uid = part_with(filled, BAD_TOKEN)
    with pytest.raises(BlockError) as raised:
        embedder(filled, **faults).embed(part, "e")
    name = f"block {part.first_block_id + row} (uid {uid}, “title {BAD_TOKEN // 5}”)"
    assert raised.value.found == f"{name}: {what}"
    assert raised.value.rows == (row,)
    assert part.digest[:12] in str(raised.value)
    assert not filled.store.list("embeddings")


def test_blocks_without_a_title_to_read_are_still_named(filled):
    part, row, uid = part_with(filled, BAD_TOKEN)
    worker = embedder(filled, makes_nan_of=BAD_TOKEN, seconds_per_row=0.005)
    errors = []

    def embed():
        try:
            worker.embed(part, "e")
        except BlockError as error:
            errors.append(error)

    thread = threading.Thread(target=embed)
    thread.start()
    while not worker.progress.work.num_rows:
        time.sleep(0.001)
    filled.store.remove(part_path(part.digest))
    thread.join()
    assert f"block {part.first_block_id + row} (uid {uid}):" in errors[0].found


def test_a_row_that_float16_turns_into_zeros_is_an_error(filled):
    class Tiny(StandInLoader):
        def load(self, *arguments):
            engine = super().load(*arguments)
            embed = engine._embed
            engine._embed = lambda *block: embed(*block) * 1e-12
            return engine

    with pytest.raises(BlockError, match="an embedding of zeros") as raised:
        PartEmbedder(filled.store, Tiny(), "fp32/float16").embed(filled.corpus.parts[0], "e")
    assert raised.value.found.count("block ") == MAX_NAMED
    assert f"{filled.corpus.parts[0].num_rows - MAX_NAMED} more: an embedding" in raised.value.found


def test_an_engine_that_gives_other_bits_the_second_time_is_refused_before_anything_is_written(filled):
    with pytest.raises(EncoderError, match="evaluation mode"):
        embedder(filled, is_random=True).embed(filled.corpus.parts[0], "e")
    assert not filled.store.list("embeddings")


class BusyLoader(StandInLoader):
    """Its engine encodes until it is let go."""

    def load(self, *arguments):
        engine = super().load(*arguments)
        encode = engine.encode

        def encode_when_let_go(*tokens, **options):
            BusyLoader.is_busy.set()
            assert BusyLoader.may_go.wait(60)
            BusyLoader.threads.add(threading.get_ident())
            return encode(*tokens, **options)

        engine.encode = encode_when_let_go
        return engine


def test_other_parts_are_read_while_one_is_encoded_and_one_thread_owns_the_engine(filled):
    there, first, second = filled.corpus.parts
    embedder(filled).embed(there, "e")
    BusyLoader.is_busy, BusyLoader.may_go, BusyLoader.threads = threading.Event(), threading.Event(), set()
    worker = PartEmbedder(filled.store, BusyLoader(), "fp32")
    threads = [threading.Thread(target=worker.embed, args=(part, "e")) for part in (first, second)]
    for thread in threads:
        thread.start()
    assert BusyLoader.is_busy.wait(60)
    assert worker.embed(there, "e").was_reused
    filled.store.remove(part_path(there.digest))
    with pytest.raises(ArtifactMissingError):
        worker.embed(there, "another encoder")
    BusyLoader.may_go.set()
    for thread in threads:
        thread.join()
    assert len(BusyLoader.threads) == 1
    assert worker.progress.work.num_rows == first.num_rows + second.num_rows


def test_queries_are_encoded_with_the_encoder_asked_for(filled):
    worker = embedder(filled)
    first, second = worker.encode_queries([[7, 8]], "e"), worker.encode_queries([[7, 8]], "f")
    assert first.shape == (1, DIMENSION)
    assert not np.array_equal(first, second)
    assert np.array_equal(worker.encode_queries([[7, 8]], "e"), first)


def test_a_complete_corpus_passes_every_check(filled):
    worker = embedder(filled)
    report = check_embedded(filled.corpus, [worker.embed(part, "e") for part in filled.corpus.parts])
    assert report.passed
    assert {check.name: check.found for check in report.checks}["uid digest"] == filled.corpus.uid_digest


def test_rows_twice_or_missing_fail_the_check_by_name(filled):
    worker = embedder(filled)
    first, _, third = [worker.embed(part, "e") for part in filled.corpus.parts]
    failed = [check.name for check in check_embedded(filled.corpus, [first, first, third]).checks if not check.passed]
    assert {"uid digest", "parts out of order"} <= set(failed)


def test_the_error_of_a_run_names_ten_blocks_and_counts_the_rest():
    def error(part, num_rows):
        names = ", ".join(f"block {row}" for row in range(min(num_rows, MAX_NAMED)))
        return BlockError(where=f"part {part}", found=names, expected="e", action="a", rows=tuple(range(num_rows)))

    together = error_of_run([error("x", 6), error("y", 4), error("z", 2)], num_embedded=7, num_parts=10)
    assert isinstance(together, BlockError)
    assert "3 failed, 12 blocks that cannot be embedded, 7 are done" in together.found
    assert together.found.count("block ") == MAX_NAMED
    assert together.found.endswith("; and 1 parts more")
    assert "part x" in together.found
    assert "part z" not in together.found
    missing = ArtifactMissingError(where="store", found="no parts/p", expected="it", action="Ingest.")
    assert isinstance(error_of_run([missing], num_embedded=0, num_parts=1), ArtifactMissingError)


def test_a_worker_starts_without_pytorch():
    code = (
        "import sys, cluster.embedding_worker, realm_core.engines.loading; "
        "print({'torch', 'transformers', 'faiss', 'scann', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr
