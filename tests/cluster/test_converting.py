import os
import signal
import threading
import time

import numpy as np
import psutil
import pytest
from support.published import texts, write_tokenizer

from cluster.converting import (
    MAX_PARTS_UNDER_WAY,
    ConversionRules,
    convert_records,
    object_store_bytes,
    parts_under_way,
)
from realm_core.conversion.part_converter import PartSource, PublishedEmbeddings
from realm_core.errors import SourceError
from realm_core.modeling.checkpoints import load_tokenizer
from realm_core.storage.block_store import read_part
from realm_core.storage.files import Store

RECORDS = [text.encode() for text in texts(600)]
ROWS_PER_PART = 50


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


@pytest.fixture
def rules(tmp_path):
    write_tokenizer(tmp_path)
    return ConversionRules(
        tokenizer_json=load_tokenizer(tmp_path).to_str(),
        max_block_tokens=512,
        embeddings=PublishedEmbeddings(encoder_digest="e" * 64, precision="published-abc"),
        where="records.npy",
    )


def sources(records=RECORDS):
    for start in range(0, len(records), ROWS_PER_PART):
        part = records[start : start + ROWS_PER_PART]
        yield PartSource(first_record=start, records=part, embeddings_RD=np.ones((len(part), 4), np.float32))


def bodies(store, parts):
    return [body.encode() for part in parts for body in read_part(store, part, ["body"])["body"].to_pylist()]


def conversion_processes():
    found = psutil.process_iter(["pid", "cmdline"])
    return [p.pid for p in found if p.info["cmdline"] and p.info["cmdline"][0].startswith("ray::_convert_part")]


@pytest.mark.cluster
def test_parts_come_back_in_their_order_and_progress_ends_at_all_records(ray_cluster, store, rules):
    seen = []
    done = convert_records(sources(), store, rules, num_cpus=2, progress=lambda *counts: seen.append(counts))
    assert [part.first_block_id for part in done.parts] == list(range(0, 600, ROWS_PER_PART))
    assert bodies(store, done.parts) == RECORDS
    assert (done.num_converted, done.num_reused, done.num_embeddings_written) == (600, 0, 600)
    assert seen[-1] == (600, 0)
    again = convert_records(sources(), store, rules, num_cpus=2, progress=lambda *counts: seen.append(counts))
    assert (again.num_converted, again.num_reused, again.num_embeddings_reused) == (0, 600, 600)
    assert seen[-1] == (600, 600)
    assert (again.parts, again.uid_digest) == (done.parts, done.uid_digest)


@pytest.mark.cluster
def test_a_killed_task_loses_and_doubles_nothing(ray_cluster, store, rules):
    killed = []

    def kill_one():
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for pid in conversion_processes():
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                return
            time.sleep(0.001)

    many = [record + b" %d" % number for number in range(10) for record in RECORDS]
    thread = threading.Thread(target=kill_one)
    thread.start()
    done = convert_records(sources(many), store, rules, num_cpus=2)
    thread.join()
    assert killed, "no task was caught at work"
    assert bodies(store, done.parts) == many
    assert done.num_converted + done.num_reused == len(many)


@pytest.mark.cluster
def test_a_bad_record_is_named_and_the_parts_before_it_are_kept(ray_cluster, store, rules):
    bad = [*RECORDS[:400], b"\xff", *RECORDS[401:]]
    with pytest.raises(SourceError, match=r"records\.npy, record 400: bytes that are no UTF-8"):
        convert_records(sources(bad), store, rules, num_cpus=2)
    assert convert_records(sources(), store, rules, num_cpus=2).num_reused >= 400


@pytest.mark.parametrize(("num_cpus", "expected"), [(0.5, 3), (1, 3), (2, 4), (16, 18), (1000, MAX_PARTS_UNDER_WAY)])
def test_a_bounded_number_of_parts_is_under_way(num_cpus, expected):
    assert parts_under_way(num_cpus) == expected
    assert object_store_bytes(num_cpus) <= 2 << 30
