"""`realm search`: the blocks that are most relevant to a text."""

from __future__ import annotations

import os
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from cluster.http_address import TOKEN_VARIABLE
from pipelines.configs.search import SearchConfig
from pipelines.http_search import search_http
from realm_core.errors import UsageError
from realm_core.retrieval.evidence import EvidenceResult, EvidenceRetriever
from realm_core.retrieval.snapshot_search import LocalSnapshotSearch
from realm_core.storage.files import Store
from realm_core.storage.snapshots import resolve_snapshot_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from realm_core.retrieval.snapshot_search import SnapshotSearch


def run_search(config: SearchConfig) -> EvidenceResult:
    """The most relevant blocks, best first.

    Raises:
        StoreError: nothing is published in the store.
        ServiceUnavailableError: no service on the cluster at `--address`, or no HTTP front at `--url`.
    """
    if config.url is not None:
        return search_http(config.url, config.text, config.num_hits, os.environ.get(TOKEN_VARIABLE))
    with open_search(config.store, config.snapshot, config.address) as (store, search):
        return EvidenceRetriever(store, search).retrieve([config.text], config.num_hits)


@contextmanager
def open_search(
    store_url: str | None, snapshot: str | None, address: str | None
) -> Iterator[tuple[Store, SnapshotSearch]]:
    """The retrieval service of a cluster and its store, or a snapshot of a store opened in this process."""
    if address is None:
        assert store_url is not None, "checked with the configuration"
        store = Store(store_url)
        snapshot_id = None if snapshot is None else resolve_snapshot_id(store, snapshot)
        with closing(LocalSnapshotSearch(store, snapshot_id)) as search:
            yield store, search
        return
    from cluster.retrieval_service import RetrievalClient
    from cluster.session import ray_session

    with ray_session(address), closing(RetrievalClient.connect()) as client:
        require_same_store(store_url, client.store)
        yield client.store, client


def require_same_store(store_url: str | None, served: Store) -> None:
    """Raises `UsageError` where `--store` is not what the service of `--address` serves."""
    if store_url is not None and Store(store_url).url != served.url:
        raise UsageError(
            where="--store with --address",
            found=Store(store_url).url,
            expected=f"{served.url}, which the service on that cluster serves",
            action="Leave --store out.",
        )
