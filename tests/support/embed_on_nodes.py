"""A cluster of its own, for tests of nodes that join and leave: `python -m support.embed_on_nodes FOLDER`.

Two actors begin on the first node; a second node joins and two more begin there; then the first node is killed, with
the parts that it had. Leaves what the test looks at in facts.json.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ray
from ray.cluster_utils import Cluster
from support.snapshots import SyntheticStore
from support.stand_in_engines import StandInLoader

from cluster.embedding import EmbeddingPool
from cluster.resources import EmbeddingPlan
from realm_core.engines.completeness import check_embedded

NODE = {"num_cpus": 2, "object_store_memory": 80 * 1024 * 1024}
NOTICED_SOON = {"health_check_period_ms": 500, "health_check_timeout_ms": 3000, "health_check_failure_threshold": 3}
"""A dead node is noticed after 2 s instead of 13."""
HEAD = {**NODE, "num_cpus": 0, "include_dashboard": False, "_system_config": NOTICED_SOON}


def main(folder):
    filled = SyntheticStore(folder, num_blocks=400, num_parts=40)
    cluster = Cluster(initialize_head=True, head_node_args=HEAD)
    doomed = cluster.add_node(**NODE)
    ray.init(address=cluster.address, log_to_driver=False)
    plan = EmbeddingPlan(num_workers=None, cpus=1.0, gpus=0.0, threads=1)
    halt = folder / "halt"
    loader = StandInLoader(seconds_per_row=0.05, waits_while=str(halt))
    pool = EmbeddingPool(filled.store.url, plan, loader, precision="fp32")
    seen = []
    with ThreadPoolExecutor() as threads:  # Ray starts nodes in the main thread only
        run = threads.submit(pool.embed, filled.corpus.parts, "e" * 64, progress=seen.append)
        num_parts_at_loss = join_then_leave(cluster, doomed, filled.store, seen, halt)
        result = run.result()
    facts = {
        "num_ready": [progress.num_ready for progress in seen],
        "num_asked_for": [progress.num_asked_for for progress in seen],
        "num_retries": result.num_retries,
        "checks_passed": check_embedded(filled.corpus, result.parts).passed,
        "num_parts_at_loss": num_parts_at_loss,
        "num_parts": len(filled.corpus.parts),
    }
    (folder / "facts.json").write_text(json.dumps(facts))
    pool.close()
    ray.shutdown()
    cluster.shutdown()


def join_then_leave(cluster, doomed, store, seen, halt):
    """Parts that were done when the first node was killed; all actors are in the midst of one then."""
    wait_for(lambda: len(store.list("embeddings")) >= 2)
    halt.touch()
    cluster.add_node(**NODE)
    wait_for(lambda: seen and seen[-1].num_ready == 4)
    num_parts = len(store.list("embeddings"))
    cluster.remove_node(doomed, allow_graceful=False)
    halt.unlink()
    return num_parts


def wait_for(is_so):
    deadline = time.monotonic() + 300
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError("what was waited for did not happen")
        time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
