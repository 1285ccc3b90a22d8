"""The demo as a process of its own: killed in mid-training, run again, run once more."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from realm_core.storage.block_store import load_corpus, read_part
from realm_core.storage.digests import fixed_binary_to_numpy
from realm_core.storage.embedding_store import read_embeddings
from realm_core.storage.files import Store
from realm_core.storage.snapshots import load_snapshot

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    questions = [{"question": "Who built the bridge of Redcliff?", "answers": ["Ada Fenn"], "title": "x"}]
    (folder / "questions.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    return folder


def command(tiny_corpus, tiny_bert):
    options = {
        "--store": "store", "--source": tiny_corpus, "--encoder": tiny_bert, "--questions": "questions.jsonl",
        "--warmup-steps": 2, "--warmup-batch-size": 4, "--pretrain-steps": 12, "--refresh-interval-steps": 4,
        "--num-candidates": 3, "--ask": "Who built the tower?",
    }  # fmt: skip
    flat = [str(part) for pair in options.items() for part in pair]
    return [sys.executable, "-m", "pipelines.cli", "demo", *flat]


def start(folder, tiny_corpus, tiny_bert):
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with (folder / "progress.txt").open("w") as progress:
        return subprocess.Popen(
            command(tiny_corpus, tiny_bert),
            cwd=folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=progress,
        )


def wait_for(condition, seconds=600):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the demo did not come this far"
        time.sleep(0.2)


def test_a_killed_demo_goes_on_and_a_finished_one_ends_at_once(folder, tiny_corpus, tiny_bert):
    first = start(folder, tiny_corpus, tiny_bert)
    wait_for(
        lambda: list(folder.glob("store/runs/pretrain-*/checkpoints/step-*/state.json")) or first.poll() is not None
    )
    assert first.poll() is None, (folder / "progress.txt").read_text()
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()

    second = start(folder, tiny_corpus, tiny_bert)
    out, _ = second.communicate(timeout=900)
    progress = (folder / "progress.txt").read_text()
    assert second.returncode == 0, progress
    assert "[1/7] ingest: done already" in progress
    assert "recall@5 before pre-training" in out
    assert "0 failed" in out
    assert_each_block_once(Store(str(folder / "store")))
    page = (folder / "report.html").read_text()
    assert "Who built the tower?" in page

    third = start(folder, tiny_corpus, tiny_bert)
    out, _ = third.communicate(timeout=600)
    assert third.returncode == 0
    assert "everything was done already" in out
    assert (folder / "progress.txt").read_text() == ""


def assert_each_block_once(store):
    snapshot = load_snapshot(store)
    corpus = load_corpus(store, snapshot.corpus_digest)
    pairs = list(zip(snapshot.embedding_digests, corpus.parts, strict=True))
    found = np.concatenate([read_embeddings(store, digest, part)[0] for digest, part in pairs])
    expected = np.concatenate([fixed_binary_to_numpy(read_part(store, part, ["uid"])["uid"]) for part in corpus.parts])
    assert found.tobytes() == expected.tobytes()
    assert len(set(found.tolist())) == corpus.num_blocks == snapshot.num_rows
