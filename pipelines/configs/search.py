"""What `realm search` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from pipelines.validation import at_least
from realm_core.errors import UsageError


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
