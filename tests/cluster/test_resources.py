import subprocess
import sys

import pytest

from cluster.ingesting import TASK_CPUS
from cluster.resources import MAX_EMBEDDING_THREADS, NodeSize, plan_embedding, plan_resources
from cluster.shard_builds import SHARD_CPUS
from realm_core.errors import UsageError


def plan(**changes):
    options = {"num_cpus": 2, "num_gpus": 0, "embedding_workers": 2, "trainer_workers": 1, "precision": "fp32"}
    return plan_resources(**{**options, **changes})


@pytest.mark.parametrize("num_cpus", [1, 2, 4, 16, 64])
@pytest.mark.parametrize("embedding_workers", [0, 1, 2, 8])
@pytest.mark.parametrize("trainer_workers", [0, 1, 2])
def test_all_actors_fit_the_cluster_at_the_same_time(num_cpus, embedding_workers, trainer_workers):
    got = plan(num_cpus=num_cpus, embedding_workers=embedding_workers, trainer_workers=trainer_workers)
    cpus = embedding_workers * got.embedding.cpus + trainer_workers * got.trainer_cpus
    assert cpus + max(SHARD_CPUS, TASK_CPUS) <= num_cpus
    assert got.embedding.threads >= 1
    assert got.trainer_threads >= 1


def test_two_cores_are_shared_between_training_and_embedding():
    got = plan()
    assert (got.trainer_threads, got.embedding.threads) == (1, 1)
    assert plan(embedding_workers=0).trainer_threads == 2


def test_every_worker_gets_a_gpu_or_shares_it_with_the_only_rank():
    assert plan(num_gpus=3).embedding.gpus == plan(num_gpus=3).trainer_gpus == 1.0
    assert plan(num_gpus=2).embedding.gpus == plan(num_gpus=2).trainer_gpus == 0.5
    assert plan(num_gpus=1).embedding.gpus == plan(num_gpus=1).trainer_gpus == 0.333
    assert plan(num_gpus=3, device="cpu").embedding.gpus == plan(num_gpus=3, device="cpu").trainer_gpus == 0.0


def test_too_few_gpus_are_no_reason_to_train_on_cpus():
    with pytest.raises(UsageError, match="3 GPUs in the cluster; expected 4, one for each of 2 ranks and 2 embedding"):
        plan(num_gpus=3, trainer_workers=2)
    with pytest.raises(UsageError, match="0 GPUs"):
        plan(device="cuda")


def test_precision_follows_the_device():
    assert plan(num_gpus=3, precision="auto").precision == "bf16"
    assert plan(precision="bf16").precision == "bf16"


def nodes(*sizes):
    return [NodeSize(cpus=cpus, gpus=gpus) for cpus, gpus in sizes]


@pytest.mark.parametrize("sizes", [[(2, 0)], [(1, 0), (64, 0)], [(0, 0), (16, 0)], [(8, 0)] * 5, [(3, 0), (20, 0)]])
def test_by_default_every_core_of_every_node_has_a_thread_or_the_node_is_nearly_full(sizes):
    plan, there = plan_embedding(nodes(*sizes)), nodes(*sizes)
    assert 1 <= plan.threads <= MAX_EMBEDDING_THREADS
    assert plan.cpus == plan.threads
    assert plan.num_wanted(there) == sum(cpus // plan.threads for cpus, _ in sizes)
    assert all(cpus - plan.threads * (cpus // plan.threads) < plan.threads for cpus, _ in sizes)


def test_a_number_of_workers_shares_the_cores_and_does_not_follow_the_cluster():
    plan = plan_embedding(nodes((16, 0)), num_workers=4)
    assert (plan.threads, plan.cpus, plan.num_wanted(nodes((16, 0), (16, 0)))) == (4, 4.0, 4)
    assert plan_embedding(nodes((2, 0)), num_workers=4).threads == 1
    assert plan_embedding(nodes((4, 0), (4, 0)), num_workers=1).threads == 4, "an actor fits on one node"


def test_the_plan_follows_nodes_that_join():
    plan = plan_embedding(nodes((4, 0)))
    assert [plan.num_wanted(nodes(*[(4, 0)] * n)) for n in (0, 1, 3)] == [0, 1, 3]


def test_with_gpus_each_actor_takes_one_and_nodes_without_are_left_out():
    there = nodes((64, 0), (32, 8), (32, 8))
    plan = plan_embedding(there)
    assert (plan.device, plan.gpus, plan.cpus, plan.threads, plan.num_wanted(there)) == ("cuda", 1.0, 1.0, 4, 16)
    few_cores = plan_embedding(nodes((4, 8)))
    assert 8 * few_cores.cpus <= 4
    assert plan_embedding(there, device="cpu").num_wanted(there) == 8 + 4 + 4


def test_gpus_can_be_asked_for_before_they_are_there():
    plan = plan_embedding(nodes((2, 0)), device="cuda", num_workers=64)
    assert (plan.device, plan.num_wanted(nodes((2, 0)))) == ("cuda", 64)
    assert plan_embedding([], threads_per_worker=3).threads == 3


def test_a_shard_server_starts_without_pytorch():
    code = "import sys, cluster.retrieval_service; print({'torch', 'transformers', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr
