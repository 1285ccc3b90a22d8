"""`realm snapshots`: what is in the store, what is live, and what may go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import tyro

from pipelines.display import Display
from pipelines.snapshot_reports import (
    CollectedReport,
    DiffReport,
    ListReport,
    MoveReport,
    ShowReport,
    VerifyReport,
    listed_snapshots,
)
from pipelines.validation import at_least
from realm_core.errors import UsageError
from realm_core.index.snapshot_check import check_stored_snapshot
from realm_core.storage.files import Store
from realm_core.storage.garbage import collect_garbage
from realm_core.storage.publishing import publish_existing, rollback
from realm_core.storage.snapshot_diff import diff_snapshots
from realm_core.storage.snapshots import list_snapshots, load_snapshot, resolve_snapshot_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from realm_core.index.gate import GateReport

Action = Literal["list", "show", "verify", "diff", "publish", "rollback", "gc"]
Report: TypeAlias = CollectedReport | DiffReport | ListReport | MoveReport | ShowReport | VerifyReport

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


def run_snapshots(config: SnapshotsConfig) -> Report:
    """Does what is asked for.

    Raises:
        StoreError: no such snapshot, or the store cannot be read.
        StoreLockedError: `gc` while something is being built.
        GateError: `publish` of a snapshot that failed a check, which it names; what is live stays so.
    """
    store = Store(config.store)
    store.require_initialized()
    return _ACTIONS[config.action](config, store)


def _list(_: SnapshotsConfig, store: Store) -> ListReport:
    return ListReport(listed_snapshots(store))


def _show(config: SnapshotsConfig, store: Store) -> ShowReport:
    snapshot_id = resolve_snapshot_id(store, config.ids[0] if config.ids else "live")
    return ShowReport(snapshot_id=snapshot_id, manifest=load_snapshot(store, snapshot_id))


def _verify(config: SnapshotsConfig, store: Store) -> VerifyReport:
    names = list_snapshots(store) if config.all else config.ids or ("live",)
    ids = [resolve_snapshot_id(store, name) for name in names]
    return VerifyReport({snapshot_id: _check(store, snapshot_id) for snapshot_id in ids})


def _diff(config: SnapshotsConfig, store: Store) -> DiffReport:
    before, after = (load_snapshot(store, resolve_snapshot_id(store, name)) for name in config.ids)
    return DiffReport(diff_snapshots(store, before, after))


def _publish(config: SnapshotsConfig, store: Store) -> MoveReport:
    snapshot_id = resolve_snapshot_id(store, config.ids[0])
    _check(store, snapshot_id).raise_if_failed(f"snapshot {snapshot_id} of store {store.url}")
    return MoveReport(publish_existing(store, snapshot_id))


def _rollback(_: SnapshotsConfig, store: Store) -> MoveReport:
    return MoveReport(rollback(store))


def _gc(config: SnapshotsConfig, store: Store) -> CollectedReport:
    with Display() as display:
        bar = None

        def watch(num_done: int, total: int) -> None:
            nonlocal bar
            bar = bar or display.task("gc", total=total, unit="files and folders")
            bar.update(num_done)

        return CollectedReport(
            collect_garbage(store, num_newest=config.keep, is_dry_run=config.dry_run, progress=watch)
        )


def _check(store: Store, snapshot_id: str) -> GateReport:
    with Display() as display:
        bar = None

        def watch(num_done: int, total: int) -> None:
            nonlocal bar
            bar = bar or display.task("verify", total=total, unit="shards and parts")
            bar.update(num_done)

        return check_stored_snapshot(store, snapshot_id, progress=watch)


def _usage(action: Action) -> str:
    takes = {
        "show": "[ID]",
        "verify": "[ID …] or --all",
        "diff": "ID ID",
        "publish": "ID",
        "gc": "[--keep N] [--dry-run]",
    }
    return " ".join(["`realm snapshots", action, *([takes[action]] if action in takes else []), "--store STORE`"])


_ACTIONS: dict[Action, Callable[[SnapshotsConfig, Store], Report]] = {
    "list": _list,
    "show": _show,
    "verify": _verify,
    "diff": _diff,
    "publish": _publish,
    "rollback": _rollback,
    "gc": _gc,
}
