"""A refresher with stand-in engines, and what to do to it from outside."""

from __future__ import annotations

import os
import signal
import threading
import time

from support.processes import actors
from support.waiting import wait_until

from cluster.refresh import IndexPlan
from cluster.refresher import RefresherClient, RefresherConfig
from cluster.resources import EmbeddingPlan, ResourcePlan
from realm_core.index.specs import IndexSpec
from realm_core.storage.encoder_pointer import EncoderVersion
from realm_core.training.run_folder import RunFolder

RUN = "pretrain-test"


def config(synthetic_store, loader, **changes):
    plan = ResourcePlan(
        embedding=EmbeddingPlan(num_workers=2, cpus=0.1, gpus=0.0, threads=1),
        precision="fp32",
        trainer_workers=0,
        trainer_cpus=0.0,
        trainer_gpus=0.0,
        trainer_threads=1,
    )
    values = {
        "store_url": synthetic_store.store.url,
        "corpus_digest": synthetic_store.corpus.digest,
        "run_name": RUN,
        "index": IndexPlan(num_shards=3, spec=IndexSpec(), target_recall=0.95),
        "plan": plan,
        "loader": loader,
        "num_kept_snapshots": 2,
    }
    return RefresherConfig(**(values | changes))


def encoder(step, name=None):
    return EncoderVersion(digest=name or f"encoder-{step}", step=step, saved_at_seconds=1000.0 + step)


class Watched:
    """A refresher and the folder of its run."""

    def __init__(self, config):
        self.store_url = config.store_url
        self.client = RefresherClient.start(config)
        self.run = RunFolder(_store(config.store_url), config.run_name)

    def offer(self, step, name=None):
        self.client.offer(encoder(step, name))
        self.client.confirm_offers()

    def begin(self, step):
        """Offers a step and waits until its refresh has begun."""
        self.offer(step)
        wait_until(lambda: any(record["step"] == step for record in self.run.read_refreshes()))

    def records(self, seconds=600.0):
        """By step, when the refresher is idle."""
        deadline = time.monotonic() + seconds
        while not self.client.status().is_idle:
            assert time.monotonic() < deadline, self.client.status()
            time.sleep(0.05)
        return {record["step"]: record for record in self.run.read_refreshes()}


class KillAt(threading.Thread):
    """Kills the refresher's process the moment that something is in the store; looks every half millisecond."""

    def __init__(self, is_there):
        super().__init__(daemon=True)
        self._is_there = is_there
        self.victims = actors("Refresher")
        self.has_killed = threading.Event()
        self.start()

    def run(self):
        while not self._is_there():
            time.sleep(0.0005)
        for pid in self.victims:
            os.kill(pid, signal.SIGKILL)
        self.has_killed.set()


def _store(url):
    from realm_core.storage.files import Store

    return Store(url)
