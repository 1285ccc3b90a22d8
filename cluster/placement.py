"""Whether all processes of a run find a place on the cluster at the same time, tried without starting any."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from realm_core.errors import UsageError

if TYPE_CHECKING:
    from cluster.resources import ResourcePlan

RESERVE_SECONDS = 30.0
"""On a cluster that has the room, places are given in less than one."""


def require_places(plan: ResourcePlan, *, timeout_seconds: float = RESERVE_SECONDS) -> None:
    """Reserves a place for every rank and every embedding actor, and gives all of them back.

    Raises `UsageError` where they do not fit, on any division over the nodes, beside what others have reserved.
    """
    embedding = {"CPU": plan.embedding.cpus, "GPU": plan.embedding.gpus}
    bundles = [plan.trainer_resources()] * plan.trainer_workers + [embedding] * (plan.embedding.num_workers or 0)
    group = placement_group([{name: amount for name, amount in bundle.items() if amount} for bundle in bundles])
    try:
        if not group.wait(timeout_seconds):
            raise _no_room(plan, timeout_seconds)
    finally:
        remove_placement_group(group)


def _no_room(plan: ResourcePlan, timeout_seconds: float) -> UsageError:
    free = ray.available_resources()
    embedding = plan.embedding
    num_workers = embedding.num_workers or 0
    cpus = plan.trainer_workers * plan.trainer_cpus + num_workers * embedding.cpus
    gpus = plan.trainer_workers * plan.trainer_gpus + num_workers * embedding.gpus
    return UsageError(
        where="places on the cluster",
        found=f"{free.get('CPU', 0.0):g} CPUs and {free.get('GPU', 0.0):g} GPUs free on {len(ray.nodes())} nodes, "
        f"and no places after {timeout_seconds:g} s",
        expected=f"{cpus:g} CPUs and {gpus:g} GPUs: {plan.trainer_workers} ranks and {num_workers} embedding actors",
        action="Lower --num-trainers or --num-embedding-workers, add nodes, or wait for other jobs to end.",
    )
