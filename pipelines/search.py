"""`realm search`: the blocks that are most relevant to a text."""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from pipelines.validation import at_least
from realm_core.errors import UsageError
from realm_core.retrieval.evidence import EvidenceResult, EvidenceRetriever
from realm_core.retrieval.snapshot_search import LocalSnapshotSearch
from realm_core.storage.files import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from realm_core.retrieval.snapshot_search import SnapshotSearch


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """Find the blocks that are most relevant to a text, with the live snapshot's encoder."""

    text: Annotated[str, tyro.conf.Positional]
    """What to search for."""
    store: str
    """Where artifacts live: a local folder or an fsspec URL."""
    num_hits: int = 5
    """Blocks to show."""
    snapshot: str | None = None
    """Snapshot to search; by default the published one. Not with --address."""
    address: str | None = None
    """Ray cluster whose retrieval service answers (`auto`, `ray://...`); by default this process opens the store."""

    def __post_init__(self) -> None:
        check_query("realm search", self.text, self.num_hits, self.snapshot, self.address)


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
            found="--snapshot with --address",
            expected="one of them: the service answers from its live snapshot",
            action="Leave one out.",
        )


def run_search(config: SearchConfig) -> EvidenceResult:
    """The most relevant blocks, best first.

    Raises:
        StoreError: nothing is published in the store.
        ServiceUnavailableError: no service on the cluster at `--address`.
    """
    store = Store(config.store)
    with open_search(store, config.snapshot, config.address) as search:
        return EvidenceRetriever(store, search).retrieve([config.text], config.num_hits)


@contextmanager
def open_search(store: Store, snapshot: str | None, address: str | None) -> Iterator[SnapshotSearch]:
    """The retrieval service of a cluster, or a snapshot opened in this process."""
    if address is None:
        with closing(LocalSnapshotSearch(store, snapshot)) as search:
            yield search
        return
    from cluster.retrieval_service import RetrievalClient
    from cluster.session import ray_session

    with ray_session(address):
        yield RetrievalClient.connect()
