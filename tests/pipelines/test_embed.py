"""`realm embed` as a user runs it: killed, out of room, with a store that goes away for a while, with a bad block."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import psutil
import pytest
from safetensors.numpy import load_file, save_file
from support.processes import embedding_actors, end_all
from support.s3 import s3_server  # noqa: F401 - a fixture
from support.tiny import write_corpus

from pipelines.cli import main
from pipelines.display import progress_line
from realm_core.storage.block_store import load_corpus, read_part
from realm_core.storage.embedded_corpus import load_embedded_corpus
from realm_core.storage.encoder_pointer import current_encoder
from realm_core.storage.files import Store
from realm_core.storage.snapshots import load_snapshot

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]

NUM_PARTS = 12


def realm(*arguments):
    """Runs a command in this process, on the tests' cluster; a command that ends well returns."""
    main([str(argument) for argument in arguments])


def embed(store, *options):
    realm("embed", "--store", store, "--num-workers", 1, "--precision", "fp32", *options)


def started(store, *options, env=None):
    """The command as a process with a cluster of its own."""
    command = [sys.executable, "-m", "pipelines.cli", "embed", "--store", store, "--precision", "fp32", *options]
    return subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )


def wait_for(is_so, process):
    deadline = time.monotonic() + 120
    while not is_so():
        assert process.poll() is None, f"it has ended: {process.communicate()}"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def embeddings(store):
    return {name: store.read_bytes(f"embeddings/{name}") for name in store.list("embeddings")}


def counts_in(output):
    """The numbers of the table, by their names."""
    return {name.strip(): int(value.replace(",", "")) for name, value in re.findall(r"│(.+?)│ ([\d,]+) +│", output)}


@pytest.fixture(scope="module")
def ingested(ray_cluster, tmp_path_factory, tiny_bert):
    """A store with some 1,800 blocks, not embedded; one of them has word pieces that no other has."""
    folder = tmp_path_factory.mktemp("embed")
    source = write_corpus(folder / "many.jsonl", num_documents=300, sentences=40)
    with source.open("a") as file:
        file.write(json.dumps({"title": "Redcliff market", "text": "The old tower was named zqxj."}) + "\n")
    realm("ingest", "--store", folder / "store", "--source", source, "--encoder", tiny_bert,
          "--max-block-tokens", 160, "--num-parts", NUM_PARTS)  # fmt: skip
    return folder / "store"


@pytest.fixture(scope="module")
def undisturbed(ingested, tmp_path_factory, tiny_bert):
    """The same store, embedded without trouble."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    shutil.copytree(ingested, store)
    embed(store, "--encoder", tiny_bert)
    return Store(str(store))


@pytest.fixture
def fresh(ingested, tmp_path):
    return Store(str(shutil.copytree(ingested, tmp_path / "store")))


def children_of(process):
    return psutil.Process(process.pid).children(recursive=True)


def test_a_killed_driver_leaves_no_actor_behind_and_a_rerun_finishes(fresh, undisturbed, tiny_bert, capsys):
    process = started(fresh.url, "--encoder", tiny_bert)
    wait_for(lambda: len(fresh.list("embeddings")) >= 2, process)
    actors, others = [psutil.Process(pid) for pid in embedding_actors(process.pid)], children_of(process)
    process.kill()
    process.communicate()
    left_over = end_all(actors, seconds=60)
    end_all(others, seconds=0)  # Ray's own agents take a minute to notice
    num_done = len(fresh.list("embeddings"))
    embed(fresh.url)
    out = capsys.readouterr().out
    counts = counts_in(out)
    assert not left_over, "actors outlive their driver"
    assert 2 <= counts["parts reused"] == num_done < NUM_PARTS
    assert counts["parts made"] + counts["parts reused"] == counts["parts"] == NUM_PARTS
    assert counts["rows made"] + counts["rows reused"] == counts["rows"] == load_corpus(fresh).num_blocks
    assert all(name in out for name in ("blocks/s", "tokens/s", "share of", "of start-up", "6 passed", "fp32"))
    assert embeddings(fresh) == embeddings(undisturbed)


def test_a_full_disk_ends_the_run_with_one_line_and_a_rerun_with_room_finishes(fresh, undisturbed, tiny_bert):
    """No actor may write files of more than 20 KB, which is what a full disk looks like to it."""
    process = started(fresh.url, "--encoder", tiny_bert)
    wait_for(lambda: embedding_actors(process.pid), process)
    for pid in embedding_actors(process.pid):
        psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (20_000, 20_000))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    [line] = [line for line in err.splitlines() if line.startswith("realm: ")]
    assert "a write that failed" in line
    assert "Make room" in line
    assert not [line for line in err.splitlines() if "Traceback" in line]
    assert len(fresh.list("embeddings")) < NUM_PARTS
    embed(fresh.url)
    assert embeddings(fresh) == embeddings(undisturbed)


def test_a_store_that_goes_away_for_some_seconds_holds_the_run_up_and_no_more(
    fresh, undisturbed, tiny_bert, s3_server, tmp_path  # noqa: F811 - the fixture
):  # fmt: skip
    url = s3_server.make_bucket("realm") + "/store"
    remote = Store(url)
    remote.fs.put(fresh.url, remote.root, recursive=True)
    process = started(url, "--encoder", tiny_bert, env={"REALM_CACHE": str(tmp_path / "cache")})
    wait_for(lambda: any(m == "PUT" and "/embeddings/" in path for m, path in list(s3_server.requests)), process)
    with s3_server.paused(seconds=4):
        pass
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert counts_in(out)["parts"] == NUM_PARTS
    assert embeddings(remote) == embeddings(undisturbed)


def test_a_block_that_comes_out_as_nan_is_named_and_ends_with_1(fresh, tiny_bert, tmp_path, capsys):
    """An encoder that has NaN for one word piece: the blocks with it are named, the parts without it are embedded."""
    corpus = load_corpus(fresh)
    token, part, row = rare_token(fresh, corpus)
    broken = shutil.copytree(tiny_bert, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"][token] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SystemExit) as exit_info:
        embed(fresh.url, "--encoder", broken)
    err = capsys.readouterr().err
    assert exit_info.value.code == 1
    assert f"1 blocks that cannot be embedded, {NUM_PARTS - 1} are done" in err
    assert f"block {part.first_block_id + row} (uid " in err
    assert "“Redcliff market”): NaN" in err
    assert err.count("realm: ") == 1
    assert len(fresh.list("embeddings")) == NUM_PARTS - 1
    assert not fresh.exists("embedded")


def rare_token(store, corpus):
    """A token that only one block has, its part and its row."""
    where = {}
    for part in corpus.parts:
        table = read_part(store, part, ["title_token_ids", "body_token_ids"])
        for row, columns in enumerate(zip(*(column.to_pylist() for column in table.columns), strict=True)):
            for token in {token for tokens in columns for token in tokens}:
                where.setdefault(token, []).append((part, row))
    token, [(part, row)] = next((token, places) for token, places in where.items() if len(places) == 1)
    return token, part, row


def test_the_record_says_what_was_embedded_and_index_takes_it(fresh, tiny_bert, capsys):
    embed(fresh.url, "--encoder", tiny_bert, "--stored-as", "float16")
    corpus, encoder = load_corpus(fresh), current_encoder(fresh)
    record = load_embedded_corpus(fresh, corpus.digest, encoder.digest)
    assert (record.precision, record.num_rows, record.dimension) == ("fp32/float16", corpus.num_blocks, 128)
    assert record.checks["passed"]
    assert {f"{digest}.parquet" for digest in record.embedding_digests} == set(fresh.list("embeddings"))
    capsys.readouterr()
    realm("index", "--store", fresh.url)
    assert "fp32/float16" in capsys.readouterr().out
    assert load_snapshot(fresh).precision == "fp32/float16"
    with pytest.raises(SystemExit):
        realm("index", "--store", fresh.url, "--precision", "int8")
    assert "Run `realm embed --precision int8` first." in capsys.readouterr().err


def test_a_rerun_of_a_finished_embedding_makes_nothing(undisturbed, capsys):
    embed(undisturbed.url)
    counts = counts_in(capsys.readouterr().out)
    assert (counts["parts made"], counts["parts reused"], counts["rows made"]) == (0, NUM_PARTS, 0)
    assert counts["rows reused"] == counts["rows"] == load_corpus(undisturbed).num_blocks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-workers", 0, "--threads-per-worker", -1], "--num-workers 0, --threads-per-worker -1"),
        (["--precision", "int8", "--device", "cuda"], "int8 on CPUs"),
    ],
)
def test_wrong_options_end_with_2_and_are_named(ingested, capsys, options, message):
    with pytest.raises(SystemExit) as exit_info:
        realm("embed", "--store", ingested, *options)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_what_is_not_there_is_named(ingested, tmp_path, capsys):
    for options, message in [(["--store", tmp_path], "realm ingest"), (["--store", ingested], "no encoder")]:
        with pytest.raises(SystemExit) as exit_info:
            realm("embed", *options)
        assert exit_info.value.code == 1
        assert message in capsys.readouterr().err


def test_a_rate_that_is_given_makes_the_eta():
    line = progress_line("embed", 900, 0, 1_000, "blocks", 1.0, "", rate=10.0)
    assert "10.0 blocks/s  ETA 0:10" in line
