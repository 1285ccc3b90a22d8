"""A cluster of its own, for a node that dies while a service answers: `python -m support.serve_on_nodes FOLDER`.

Two replicas of two shards and two routers are spread over three nodes; the node with the most of them is killed under
load. Leaves what the test looks at in facts.json.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import ray
from ray.cluster_utils import Cluster
from support.callers import Callers
from support.embed_on_nodes import HEAD, NODE
from support.snapshots import SyntheticStore
from support.waiting import wait_until

from cluster.retrieval_service import start_service, stop_service
from cluster.session import NAMESPACE


def main(folder):
    filled = SyntheticStore(folder)
    filled.publish(seed=0, step=0)
    cluster = Cluster(initialize_head=True, head_node_args=HEAD)
    nodes = [cluster.add_node(**NODE) for _ in range(2)]
    ray.init(address=cluster.address, namespace=NAMESPACE, log_to_driver=False)
    wait_until(lambda: len(nodes_that_are_given_work()) == 3, "work on three nodes")
    client = start_service(filled.store, replicas=2, routers=2)
    before = client.processes()
    with Callers(client, {0: filled}, deadline_seconds=60.0) as callers:
        time.sleep(1.0)
        doomed = max(nodes, key=lambda node: len(on_node(node, before)))
        lost = on_node(doomed, before)
        cluster.remove_node(doomed, allow_graceful=False)
        recovered = wait_for_all(client, before, seconds=60.0)
        num_right = callers.num_right
        time.sleep(1.0)
    facts = {
        "num_processes": len(before),
        "kinds_lost": sorted(Counter(kind(name) for name in lost)),
        "num_lost": len(lost),
        "recovered": recovered,
        "failures": [str(failure) for failure in callers.failures],
        "num_right": callers.num_right,
        "went_on": callers.num_right > num_right,
    }
    (folder / "facts.json").write_text(json.dumps(facts))
    stop_service()
    ray.shutdown()
    cluster.shutdown()


def nodes_that_are_given_work():
    """Ids of the nodes that work is spread over by now: what starts sooner goes to the nodes that were known first."""

    @ray.remote(num_cpus=0, scheduling_strategy="SPREAD")
    def place():
        return ray.get_runtime_context().get_node_id()

    return set(ray.get([place.remote() for _ in range(6)]))


def on_node(node, processes):
    """Names of the processes that the node's raylet has started."""
    raylet = node.all_processes["raylet"][0].process.pid
    return [name for name, pid in processes.items() if psutil.Process(pid).ppid() == raylet]


def kind(name):
    return "shard" if "-shard-" in name else "router" if "-router-" in name else "controller"


def wait_for_all(client, before, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if client.status().is_ready and len(client.processes()) == len(before):
                return True
        except Exception:  # noqa: BLE001 - the controller itself may be what is away
            pass
        time.sleep(0.5)
    return False


if __name__ == "__main__":
    main(Path(sys.argv[1]))
