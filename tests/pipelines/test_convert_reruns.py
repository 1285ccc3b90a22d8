"""`realm convert` a second time: after it was done, damaged, or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from support.conversions import NUM_RECORDS, RECORDS, ROWS_PER_PART, convert_config, published_digests

from pipelines.convert import run_convert
from realm_core.storage.block_store import BlockRecords, load_corpus, part_path
from realm_core.storage.embedding_store import embedding_path
from realm_core.storage.encoder_pointer import current_encoder
from realm_core.storage.files import Store

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]


def test_a_rerun_says_that_everything_was_there(ray_cluster, tmp_path, model, capsys):
    store = Store(str(tmp_path / "store"))
    first = run_convert(convert_config(store.url, model))
    saved_at = current_encoder(store).saved_at_seconds
    again = run_convert(convert_config(store.url, model))
    assert (again.records.done.num_converted, again.records.done.num_reused) == (0, NUM_RECORDS)
    assert again.records.done.num_embeddings_reused == NUM_RECORDS
    assert again.records.done.num_truncated == first.records.done.num_truncated
    assert again.records.corpus == first.records.corpus
    assert "was there already" in again.encoder
    assert "was there already" in again.reader
    assert current_encoder(store).saved_at_seconds == saved_at


def test_a_rerun_makes_what_was_damaged_and_only_that(ray_cluster, tmp_path, model):
    store = Store(str(tmp_path / "store"))
    first = run_convert(convert_config(store.url, model))
    parts, embeddings = load_corpus(store).parts, published_digests(store)
    intact = store.read_bytes(part_path(parts[1].digest)), store.read_bytes(embedding_path(embeddings[2]))
    store.write_bytes(part_path(parts[1].digest), intact[0][:-50])
    store.remove(embedding_path(embeddings[2]))
    name = store.list("conversions")[0]
    store.write_bytes(f"conversions/{name}", b"{")
    again = run_convert(convert_config(store.url, model)).records
    assert again.corpus == first.records.corpus
    assert ROWS_PER_PART <= again.done.num_converted <= 2 * ROWS_PER_PART
    assert again.done.num_embeddings_written == ROWS_PER_PART
    assert store.read_bytes(part_path(parts[1].digest)) == intact[0]
    assert store.read_bytes(embedding_path(embeddings[2])) == intact[1]


def test_a_run_killed_in_the_middle_is_gone_on_with(ray_cluster, tmp_path, model):
    """The first run is a process of its own, killed with its cluster when some parts are done."""
    store, rows_per_part = Store(str(tmp_path / "store")), 8
    command = [sys.executable, "-m", "pipelines.cli", "convert", "--store", store.url, "--model", str(model)]
    command += ["--rows-per-part", str(rows_per_part)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(store.list("conversions")) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    num_done, num_parts = len(store.list("conversions")), -(-NUM_RECORDS // rows_per_part)
    assert 3 <= num_done < num_parts, "killed too early or too late: nothing was tested"
    assert not store.exists("corpora/CURRENT")
    assert not store.exists("encoders/CURRENT")
    done = run_convert(convert_config(store.url, model, rows_per_part=rows_per_part)).records.done
    assert num_done * rows_per_part <= done.num_reused < NUM_RECORDS
    assert done.num_converted + done.num_reused == NUM_RECORDS
    corpus = load_corpus(store)
    assert sum(part.num_rows for part in corpus.parts) == NUM_RECORDS
    assert [row["body"] for row in BlockRecords(store, corpus).take(range(NUM_RECORDS))] == RECORDS
