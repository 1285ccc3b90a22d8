"""Whole pre-training runs whose refreshes are held up, or whose service dies."""

import os
import signal
import threading
import time

import pytest

from cluster.retrieval_service import RetrievalClient
from pipelines.cli import main
from pipelines.pretrain import PretrainConfig, run_pretrain
from realm_core.errors import RealmError, UsageError
from realm_core.storage.files import Store
from realm_core.storage.snapshots import load_snapshot
from realm_core.training.run_folder import RunFolder

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]


@pytest.fixture
def store(ray_cluster, tmp_path, tiny_corpus, tiny_bert):
    """A store after ingest, warm-up, embed and index."""
    url = str(tmp_path / "store")
    warmup = ["--encoder", tiny_bert, "--num-steps", 2, "--batch-size", 8, "--num-warmup-steps", 1]
    for command in (
        ["ingest", "--source", tiny_corpus, "--encoder", tiny_bert, "--max-block-tokens", 128],
        ["warmup", *warmup],
        ["embed"],
        ["index"],
    ):
        main([command[0], "--store", url, *map(str, command[1:])])
    return Store(url)


def config(store, tiny_bert, **changes):
    options = {
        "store": store.url, "encoder": str(tiny_bert), "num_steps": 8, "refresh_interval_steps": 2, "batch_size": 2,
        "num_candidates": 3, "query_length_tokens": 64, "num_warmup_steps": 1, "precision": "fp32",
    }  # fmt: skip
    return PretrainConfig(**{**options, **changes})


def test_training_waits_for_fresh_snapshots_where_staleness_has_a_bound(store, tiny_bert):
    report = run_pretrain(config(store, tiny_bert, max_staleness_steps=2))
    assert report.num_refreshes_live == 4
    assert report.num_freshness_waits >= 1
    assert report.freshness_wait_seconds > 0
    steps = RunFolder(store, report.run_name).read_metrics()
    assert not any(step["freshness_problem"] for step in steps)
    queued = 3  # batches that were made before the swap: two that wait, one in the making
    assert max(step["staleness_steps"] for step in steps) <= 2 + queued


def test_a_bound_below_the_interval_is_refused():
    with pytest.raises(UsageError, match="--max-staleness-steps 5"):
        PretrainConfig(store="s", encoder="e", refresh_interval_steps=10, max_staleness_steps=5)


class ServiceKiller(threading.Thread):
    """Kills every process of the service, once training has taken a step."""

    def __init__(self, store):
        super().__init__(daemon=True)
        self._store = store
        self.killed = []
        self.start()

    def run(self):
        while not any(RunFolder(self._store, run).read_metrics() for run in self._runs()):
            time.sleep(0.05)
        while not self.killed:
            try:
                self.killed = list(RetrievalClient.connect().processes().values())
            except RealmError:
                time.sleep(0.1)
        for pid in self.killed:
            os.kill(pid, signal.SIGKILL)

    def _runs(self):
        return [name for name in self._store.list("runs") if name.startswith("pretrain-")]


def test_a_service_that_is_killed_whole_in_the_middle_of_training_comes_back_and_training_goes_on(store, tiny_bert):
    killer = ServiceKiller(store)
    report = run_pretrain(config(store, tiny_bert))
    assert len(killer.killed) >= 4, "controller, router and two shards"
    assert report.num_steps == 8
    assert report.live_staleness_steps == 0
    assert load_snapshot(store).encoder_step == 8
