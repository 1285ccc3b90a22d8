"""Processes that form a group as the ranks of a training run do, without Ray."""

from __future__ import annotations

import torch
import torch.distributed as dist


def run_on_ranks(function, num_ranks, folder, *arguments):
    """Calls `function(rank, folder, *arguments)` in so many processes of one gloo group; it must be importable."""
    rendezvous = f"file://{folder}/rendezvous"
    torch.multiprocessing.spawn(_run, (function, num_ranks, rendezvous, folder, arguments), nprocs=num_ranks)


def _run(rank, function, num_ranks, rendezvous, folder, arguments):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=num_ranks)
    try:
        function(rank, folder, *arguments)
    finally:
        dist.destroy_process_group()
