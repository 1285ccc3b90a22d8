"""Which Ray cluster a run joins. Imports no Ray, which takes a second."""

from __future__ import annotations

import os


def cluster_address(address: str | None) -> str | None:
    """The cluster to join: the one given, else what RAY_ADDRESS names, as in jobs that were submitted to a cluster."""
    return address or os.environ.get("RAY_ADDRESS") or None


def joins_a_cluster(address: str | None) -> bool:
    """True when `ray_session` joins a cluster that others run, which may grow; False when it starts its own."""
    return cluster_address(address) is not None
