"""`realm snapshots`: what is in the store, what is live, and what may go."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from pipelines.configs.snapshots import Action, SnapshotsConfig
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
from realm_core.index.snapshot_check import check_stored_snapshot
from realm_core.storage.files import Store
from realm_core.storage.garbage import collect_garbage
from realm_core.storage.publishing import publish_existing, rollback
from realm_core.storage.snapshot_diff import diff_snapshots
from realm_core.storage.snapshots import list_snapshots, load_snapshot, resolve_snapshot_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from realm_core.index.gate import GateReport

Report: TypeAlias = CollectedReport | DiffReport | ListReport | MoveReport | ShowReport | VerifyReport


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


_ACTIONS: dict[Action, Callable[[SnapshotsConfig, Store], Report]] = {
    "list": _list,
    "show": _show,
    "verify": _verify,
    "diff": _diff,
    "publish": _publish,
    "rollback": _rollback,
    "gc": _gc,
}
