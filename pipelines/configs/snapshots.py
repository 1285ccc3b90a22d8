"""What `realm snapshots` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from pipelines.validation import at_least
from realm_core.errors import UsageError

Action = Literal["list", "show", "verify", "diff", "publish", "rollback", "gc"]

NUM_IDS: dict[Action, tuple[int, int]] = {
    "list": (0, 0),
    "show": (0, 1),
    "diff": (2, 2),
    "publish": (1, 1),
    "rollback": (0, 0),
    "gc": (0, 0),
}
"""How many ids an action takes, from and to; `verify` takes any number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotsConfig:
    """Look after the snapshots of a store.

    list                  all of them, and which is live
    show [ID]             everything about one; the live one unless named
    verify [ID ...]       read every file of it and compare; --all for every snapshot
    diff ID ID            what changed from one to another
    publish ID            check one that is in the store, then make it live
    rollback              make live again what was live before
    gc                    remove old ones, and the files that nothing needs any more

    An ID may be cut short as long as no other begins like it; `live` and `previous` are names too.
    """

    action: Annotated[Action, tyro.conf.Positional]
    """What to do."""
    ids: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Snapshots that the action is about."""
    store: str
    """Where artifacts live: a local folder or an fsspec URL."""
    all: bool = False
    """verify: every snapshot of the store."""
    keep: int = 3
    """gc: how many of the newest to keep, besides the live one, the previous one, and those that are being read."""
    dry_run: bool = False
    """gc: say what would go, and remove nothing."""

    def __post_init__(self) -> None:
        at_least("realm snapshots gc", keep=(self.keep, 0))
        problems = [
            *self._wrong_number_of_ids(),
            *(["--all"] if self.all and self.action != "verify" else []),
            *(["--all with ids"] if self.all and self.ids else []),
            *(["--dry-run"] if self.dry_run and self.action != "gc" else []),
        ]
        if problems:
            raise UsageError(
                where=f"realm snapshots {self.action}",
                found=", ".join(problems),
                expected=_usage(self.action),
                action="`realm snapshots --help` says what each action takes.",
            )

    def _wrong_number_of_ids(self) -> list[str]:
        least, most = NUM_IDS.get(self.action, (0, len(self.ids)))
        found = f"{len(self.ids)} snapshot ids" if self.ids else "no snapshot id"
        return [] if least <= len(self.ids) <= most else [found]


def _usage(action: Action) -> str:
    takes = {
        "show": "[ID]",
        "verify": "[ID …] or --all",
        "diff": "ID ID",
        "publish": "ID",
        "gc": "[--keep N] [--dry-run]",
    }
    return " ".join(["`realm snapshots", action, *([takes[action]] if action in takes else []), "--store STORE`"])
