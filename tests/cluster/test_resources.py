import subprocess
import sys

import pytest

from cluster.indexing import SHARD_CPUS
from cluster.ingesting import TASK_CPUS
from cluster.resources import plan_resources


def plan(**changes):
    options = {"num_cpus": 2, "num_gpus": 0, "embedding_workers": 2, "trainer_workers": 1, "precision": "fp32"}
    return plan_resources(**{**options, **changes})


@pytest.mark.parametrize("num_cpus", [1, 2, 4, 16, 64])
@pytest.mark.parametrize("embedding_workers", [0, 1, 2, 8])
@pytest.mark.parametrize("trainer_workers", [0, 1, 2])
def test_all_actors_fit_the_cluster_at_the_same_time(num_cpus, embedding_workers, trainer_workers):
    got = plan(num_cpus=num_cpus, embedding_workers=embedding_workers, trainer_workers=trainer_workers)
    cpus = embedding_workers * got.embedding_cpus + trainer_workers * got.trainer_cpus
    assert cpus + max(SHARD_CPUS, TASK_CPUS) <= num_cpus
    assert got.embedding_threads >= 1
    assert got.trainer_threads >= 1


def test_two_cores_are_shared_between_training_and_embedding():
    got = plan()
    assert (got.trainer_threads, got.embedding_threads) == (1, 1)
    assert plan(embedding_workers=0).trainer_threads == 2


def test_gpus_go_to_all_workers_or_to_none():
    assert plan(num_gpus=3).embedding_gpus == plan(num_gpus=3).trainer_gpus == 1.0
    assert plan(num_gpus=2).embedding_gpus == plan(num_gpus=2).trainer_gpus == 0.0


def test_precision_follows_the_device():
    assert plan(num_gpus=3, precision="auto").precision == "bf16"
    assert plan(precision="bf16").precision == "bf16"


def test_a_shard_server_starts_without_pytorch():
    code = "import sys, cluster.retrieval_service; print({'torch', 'transformers', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr
