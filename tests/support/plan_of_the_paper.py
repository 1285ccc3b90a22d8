"""The paper's run, planned on a node that claims 80 GPUs: `python -m support.plan_of_the_paper STORE ENCODER`."""

import sys
from pathlib import Path

import ray

from pipelines.cli import main

CONFIG = Path(__file__).parents[2] / "deploy" / "pretrain-paper.yaml"


def plan(store, encoder):
    ray.init("local", num_cpus=160, num_gpus=80, object_store_memory=80 << 20, include_dashboard=False)
    try:
        main(["pretrain", "--config", str(CONFIG), "--store", store, "--encoder", encoder, "--dry-run"])
    finally:
        ray.shutdown()


if __name__ == "__main__":
    plan(sys.argv[1], sys.argv[2])
