"""The commands as a user runs them, on a tiny corpus, one after the other on one store."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from support.processes import actors, kill

from pipelines.cli import main
from pipelines.configs.pretrain import PretrainConfig
from pipelines.pretrain import pretrain
from realm_core.modeling.checkpoints import load_encoder
from realm_core.storage.block_store import load_corpus
from realm_core.storage.files import Store
from realm_core.storage.snapshots import list_snapshots, load_snapshot
from realm_core.training.run_folder import RunFolder

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]


def realm(*arguments):
    """Runs a command; a command that ends well returns."""
    main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def store(ray_cluster, tmp_path_factory, tiny_corpus, tiny_bert):
    """A store after ingest, warm-up, embed and index."""
    url = tmp_path_factory.mktemp("loop") / "store"
    realm("ingest", "--store", url, "--source", tiny_corpus, "--encoder", tiny_bert, "--max-block-tokens", 128)
    realm("warmup", "--store", url, "--encoder", tiny_bert, "--num-steps", 4, "--batch-size", 8,
          "--checkpoint-interval-steps", 2, "--num-warmup-steps", 1)  # fmt: skip
    realm("embed", "--store", url)
    realm("index", "--store", url)
    return Store(str(url))


def pretrain_config(store, tiny_bert, **changes):
    options = {
        "store": store.url, "encoder": str(tiny_bert), "num_steps": 6, "refresh_interval_steps": 2, "batch_size": 2,
        "num_candidates": 3, "query_length_tokens": 64, "num_warmup_steps": 1, "precision": "fp32",
    }  # fmt: skip
    return PretrainConfig(**{**options, **changes})


def test_counts_add_up(store):
    counts = load_corpus(store).counts
    assert counts["pages"] == counts["documents"] == 24
    assert load_snapshot(store).num_rows == load_corpus(store).num_blocks


def test_search_and_ask_print_evidence(store, capsys):
    realm("search", "Who built the bridge of Redcliff?", "--store", store.url, "--num-hits", 2)
    out = capsys.readouterr().out
    assert "relevance" in out
    assert "block" in out
    realm("ask", "Who built the tower?", "When was the school built?", "--store", store.url, "--num-evidence", 1)
    out = capsys.readouterr().out
    assert "When was the school built?" in out
    assert out.count("relevance") == 2


def test_a_second_run_of_each_stage_finds_what_is_done(store, tiny_corpus, tiny_bert, capsys):
    realm("ingest", "--store", store.url, "--source", tiny_corpus, "--encoder", tiny_bert, "--max-block-tokens", 128)
    assert "was there already" in capsys.readouterr().out
    realm("embed", "--store", store.url)
    assert "parts made   │ 0" in capsys.readouterr().out


def test_pretraining_refreshes_the_index_and_a_finished_run_is_found_again(store, tiny_bert):
    report = pretrain(pretrain_config(store, tiny_bert))
    assert report.num_steps == 6
    assert report.num_refreshes_failed == 0
    assert report.num_swaps == report.num_refreshes_live >= 1
    assert report.num_failed_searches == 0
    assert report.live_staleness_steps == 0
    assert load_snapshot(store).encoder_step == 6
    assert len(list_snapshots(store)) >= 2
    steps = RunFolder(store, report.run_name).read_metrics()
    assert [step["step"] for step in steps] == [1, 2, 3, 4, 5, 6]
    for step in steps:
        assert step["loss"] > 0
        assert 0 <= step["staleness_steps"] < step["step"]
        assert step["staleness_seconds"] > 0
        assert step["snapshot_id"].startswith("step-")
    live = load_snapshot(store)
    embedder = load_encoder(store.local_folder(f"encoders/{live.encoder_digest}")).embedder
    assert embedder.config.retriever_proj_size == live.dimension
    again = pretrain(pretrain_config(store, tiny_bert))
    assert again.was_done
    assert json.dumps(again.recall) == json.dumps(report.recall)


def test_the_papers_run_finds_a_place_for_each_process_on_80_gpus_and_starts_nothing(store, tiny_bert):
    runs = store.list("runs")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "support.plan_of_the_paper", store.url, str(tiny_bert)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for fact in ("64 ranks of 1 GPU", "= 512 sentences", "8 candidates", "16 embedding actors of 1 GPU", "400 in all",
                 "200,000 steps, rate 3e-05 after 10,000", "bf16"):  # fmt: skip
        assert fact in done.stdout
    assert store.list("runs") == runs


def copy_of(store, folder):
    """The same live snapshot in a store of its own."""
    shutil.copytree(store.url, folder)
    return Store(str(folder))


class GeneratorKiller:
    """Kills the run's example generator once, when training has taken some steps."""

    def __init__(self, store, after_step):
        self._store, self._after_step = store, after_step
        self.killed_at_step = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _watch(self):
        while self.killed_at_step is None and not self._stop.wait(0.02):
            names = [name for name in self._store.list("runs") if name.startswith("pretrain-")]
            steps = [step["step"] for name in names for step in RunFolder(self._store, name).read_metrics()]
            found = actors("ExampleGeneratorWorker")
            if found and max(steps, default=0) >= self._after_step and kill(found[0]):
                self.killed_at_step = max(steps)


def test_a_generator_killed_in_the_midst_of_training_makes_the_same_batches_again(store, tiny_bert, tmp_path):
    calm, disturbed = copy_of(store, tmp_path / "calm"), copy_of(store, tmp_path / "disturbed")
    for one in (calm, disturbed):
        one.remove("runs")
    steps = {"num_steps": 40, "refresh_interval_steps": 40}  # one snapshot for all of the run
    expected = RunFolder(calm, pretrain(pretrain_config(calm, tiny_bert, **steps)).run_name).read_metrics()
    with GeneratorKiller(disturbed, after_step=3) as killer:
        report = pretrain(pretrain_config(disturbed, tiny_bert, **steps))
    assert 3 <= killer.killed_at_step < 40
    found = RunFolder(disturbed, report.run_name).read_metrics()
    for name in ("step", "loss", "retrieval_utility", "num_seen", "skipped", "num_tokens", "snapshot_id"):
        assert [step[name] for step in found] == [step[name] for step in expected], name
    assert report.num_seen == report.num_used + sum(report.skipped.values())


def test_masks_at_random_no_null_document_tensorboard_and_a_page(store, tiny_bert, tmp_path):
    changes = {"masking": "random-span", "null_document": False, "num_steps": 3, "refresh_interval_steps": 3}
    outputs = {"tensorboard": str(tmp_path / "events"), "report": str(tmp_path / "report.html")}
    report = pretrain(pretrain_config(copy_of(store, tmp_path / "store"), tiny_bert, **changes, **outputs))
    assert report.retrieval_utility_last is None
    assert (report.num_seen, report.num_used, report.skipped) == (6, 6, {})
    assert "had no null document" in (tmp_path / "report.html").read_text()
    assert list((tmp_path / "events" / report.run_name).iterdir())


def test_more_candidates_than_blocks_are_refused_at_the_start(store, tiny_bert, capsys):
    with pytest.raises(SystemExit) as exit_info:
        realm("pretrain", "--store", store.url, "--encoder", tiny_bert, "--num-candidates", 500)
    assert exit_info.value.code == 2
    assert "--num-candidates 500 over" in capsys.readouterr().err


def start_realm(*arguments, environment=None):
    """A command as a process of its own, which can be interrupted."""
    can_be_interrupted = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    return subprocess.Popen(
        [sys.executable, "-c", f"{can_be_interrupted}; from pipelines.cli import main; main()", *map(str, arguments)],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line_with(process, words):
    """The first line of standard error with these words; ends the process where none comes in two minutes."""
    seen = []
    timer = threading.Timer(120, process.kill)
    timer.start()
    try:
        for line in process.stderr:
            seen.append(line)
            if words in line:
                return line
    finally:
        timer.cancel()
    raise AssertionError(f"no {words!r} in {seen}")


@pytest.mark.parametrize(("end", "num_shards"), [(signal.SIGINT, 1), (signal.SIGTERM, 3)])
def test_serve_on_this_machine_answers_http_follows_the_store_and_ends_when_it_is_told(store, end, num_shards, capsys):
    realm("embed", "--store", store.url)  # with the newest encoder, whatever tests ran before
    process = start_realm("serve", "--store", store.url, "--http", "127.0.0.1:0")
    try:
        url = line_with(process, "Ctrl-C ends it").split(" on ")[1].split(";")[0]
        realm("search", "Who built the bridge of Redcliff?", "--url", url, "--num-hits", 2)
        assert capsys.readouterr().out.count("relevance") >= 2
        realm("index", "--store", store.url, "--num-shards", num_shards)
        assert load_snapshot(store).snapshot_id in line_with(process, "live: ")
        process.send_signal(end)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, err
    assert "ended" in out
    assert "1 answered, 0 failed" in out
    assert load_snapshot(store).snapshot_id in out


@contextmanager
def cluster_of_others():
    """Its address, and what a process needs in its environment to join it."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = {**os.environ, **token, "PYTHONPATH": os.pathsep.join([".", "tests"])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-m", "support.cluster_of_others"], env=environment, **pipes)
    try:
        yield process.stdout.readline().strip(), token
    finally:
        process.communicate(timeout=60)


def test_serve_on_a_cluster_of_others_starts_attaches_and_stops(store):
    with cluster_of_others() as (address, token):

        def run(*arguments):
            process = start_realm(*arguments, environment={**token, "RAY_ADDRESS": address})
            out, err = process.communicate(timeout=120)
            return process.returncode, out, err

        assert run("serve", "status")[0] == 1
        code, out, err = run("serve", "--store", store.url, "--http", "127.0.0.1:0")
        assert code == 0, err
        assert "started" in out
        code, out, err = run("serve", "--store", store.url, "--replicas", 2)
        assert code == 0, err
        assert "attached" in out
        assert "--replicas 2 was asked for, it has 1" in " ".join(out.replace("│", " ").split())
        code, out, err = run("search", "the tower of Ashford", "--address", address)
        assert code == 0, err
        assert "relevance" in out
        code, out, err = run("serve", "status")
        assert code == 0, err
        assert "1 answered, 0 failed" in out
        url = next(word for word in out.split() if word.startswith("http://"))
        realm("search", "the tower of Ashford", "--url", url)
        assert run("serve", "stop")[:1] == (0,)
        code, out, err = run("serve", "status")
        assert (code, "Start it with `realm serve" in err) == (1, True)
        with pytest.raises(SystemExit):
            realm("search", "the tower of Ashford", "--url", url)
