"""`realm search`: the blocks that are most relevant to a text."""

from __future__ import annotations

import os
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from pipelines.http_search import search_http
from pipelines.validation import at_least
from realm_core.errors import UsageError
from realm_core.retrieval.evidence import EvidenceResult, EvidenceRetriever
from realm_core.retrieval.snapshot_search import LocalSnapshotSearch
from realm_core.storage.files import Store
from realm_core.storage.snapshots import resolve_snapshot_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from realm_core.retrieval.snapshot_search import SnapshotSearch


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """Find the blocks that are most relevant to a text, with the live snapshot's encoder."""

    text: Annotated[str, tyro.conf.Positional]
    """What to search for."""
    store: str | None = None
    """Where artifacts live: a local folder or an fsspec URL; this process opens it. Not needed with the other two."""
    address: str | None = None
    """Ray cluster whose retrieval service answers (`auto`, `ray://...`)."""
    url: str | None = None
    """HTTP front that answers, such as http://127.0.0.1:8080; its token is taken from REALM_HTTP_TOKEN."""
    num_hits: int = 5
    """Blocks to show."""
    snapshot: str | None = None
    """Snapshot to search; by default the published one. Only with --store alone."""

    def __post_init__(self) -> None:
        check_query("realm search", self.text, self.num_hits, self.snapshot, self.address or self.url)
        given = [name for name in ("store", "address", "url") if getattr(self, name) is not None]
        if not given or ("url" in given and len(given) > 1):
            raise UsageError(
                where="realm search",
                found=" with ".join(f"--{name}" for name in given) or "nothing to search",
                expected="--store, or --address of a cluster with a retrieval service, or --url of an HTTP front",
                action="Name one of them.",
            )


def check_query(command: str, text: str, num_hits: int, snapshot: str | None, address: str | None) -> None:
    """Raises `UsageError` for an empty text, no hits, or a snapshot that the service cannot be asked for."""
    at_least(command, num_hits=(num_hits, 1))
    if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UsageError(where=command, found="a text that is not UTF-8", expected="UTF-8", action="Convert it.")
    if not text.strip():
        raise UsageError(where=command, found="an empty text", expected="words", action="Say what to look for.")
    if snapshot is not None and address is not None:
        raise UsageError(
            where=command,
            found="--snapshot with --address or --url",
            expected="one of them: the service answers from its live snapshot",
            action="Leave one out.",
        )


def run_search(config: SearchConfig) -> EvidenceResult:
    """The most relevant blocks, best first.

    Raises:
        StoreError: nothing is published in the store.
        ServiceUnavailableError: no service on the cluster at `--address`, or no HTTP front at `--url`.
    """
    if config.url is not None:
        return search_http(config.url, config.text, config.num_hits, os.environ.get("REALM_HTTP_TOKEN"))
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
