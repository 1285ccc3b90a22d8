"""What `realm snapshots` came to, and how it is shown."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from pipelines.display import console, print_table
from realm_core.errors import ArtifactCorruptError, GateError
from realm_core.index.setting import SearchSetting, setting_text
from realm_core.index.tuning import has_leaves
from realm_core.storage.snapshot_pointer import SnapshotPointer, read_pointer
from realm_core.storage.snapshots import SnapshotManifest, list_snapshots, load_snapshot, snapshot_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from realm_core.index.gate import GateReport
    from realm_core.storage.files import Store
    from realm_core.storage.garbage import CollectionReport
    from realm_core.storage.publishing import Move
    from realm_core.storage.snapshot_diff import Overlap, SnapshotDiff


_TUNING_COLUMNS = {
    "leaf_fraction": ("of the leaves", ".2%"),
    "num_reordered": ("reordered", ",d"),
    "recall_at_1": ("recall@1", ".4f"),
    "recall_at_5": ("recall@5", ".4f"),
    "recall_at_10": ("recall@10", ".4f"),
    "cost_microseconds": ("cost, us", ".1f"),
    "queries_per_second_per_core": ("queries/s on a core", ",.0f"),
}
"""Of a tuning curve, by name: title and format."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedSnapshot:
    """A snapshot in the list."""

    snapshot_id: str
    state: str
    built_at_seconds: float
    """When its manifest was written, since the epoch; in a copy of a store, when it was copied."""
    manifest: SnapshotManifest | None
    """None where it is damaged."""


@dataclass(frozen=True, slots=True)
class ListReport:
    """All snapshots of a store, by training step."""

    snapshots: Sequence[ListedSnapshot]

    def show(self) -> None:
        """A line for each."""
        columns = ("snapshot", "step", "rows", "index", "size", "recall@5", "trained", "built", "state")
        now = time.time()
        _print_columns("snapshots", columns, [_line(one, now) for one in self.snapshots])


@dataclass(frozen=True, kw_only=True, slots=True)
class ShowReport:
    """Everything about one snapshot."""

    snapshot_id: str
    manifest: SnapshotManifest

    def show(self) -> None:
        """Its facts, the curve that its search setting was chosen from, and its checks."""
        manifest = self.manifest
        print_table(self.snapshot_id, self.rows())
        shards = [(s.digest[:12], s.kind, s.num_rows, s.first_block_id, size(s.num_bytes)) for s in manifest.shards]
        _print_columns("shards", ("shard", "kind", "rows", "first block", "size"), shards)
        if has_leaves(manifest.shards):
            titles = [title for title, _ in _TUNING_COLUMNS.values()]
            _print_columns("tuning", ("", *titles), [_tuning_line(manifest, one) for one in manifest.tuning])
        checks = manifest.gate.get("checks", [])
        lines = [(c["name"], fact(c["found"]), fact(c["expected"]), "yes" if c["passed"] else "NO") for c in checks]
        _print_columns("gate", ("check", "found", "expected", "passed"), lines)

    def rows(self) -> list[tuple[str, object]]:
        """Its facts."""
        manifest = self.manifest
        return [
            ("corpus", manifest.corpus_digest[:12]),
            ("encoder", f"{manifest.encoder_digest[:12]}, step {manifest.encoder_step}"),
            ("encoder left training", _ago(manifest.encoder_saved_at_seconds, time.time())),
            ("precision of the embeddings", manifest.precision),
            ("dimension", manifest.dimension),
            ("rows", manifest.num_rows),
            ("size of the shards", size(shard_bytes(manifest))),
            ("index", settings(manifest.index_spec)),
            ("search setting", setting_text(SearchSetting.from_json(manifest.search_setting), manifest.shards)),
        ]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The checks of each snapshot that was verified: at least one."""

    reports: dict[str, GateReport]

    def show(self) -> None:
        """A line for each check; raises `GateError` when one failed, so that the command ends with 1."""
        columns = ("", "check", "found", "expected")
        for snapshot_id, report in self.reports.items():
            lines = [("ok" if c.passed else "FAILED", c.name, fact(c.found), fact(c.expected)) for c in report.checks]
            _print_columns(snapshot_id, columns, lines)
        failed = {one: [c.name for c in r.checks if not c.passed] for one, r in self.reports.items() if not r.passed}
        if failed:
            raise GateError(
                where="realm snapshots verify",
                found="; ".join(f"{snapshot_id}: {', '.join(names)}" for snapshot_id, names in failed.items()),
                expected="no failed check",
                action="`realm embed` and `realm index` make what is damaged or missing again; until then "
                "`realm snapshots publish ID` or `rollback` can make another snapshot live.",
            )
        console().print(f"Whole: every file of {len(self.reports):,} snapshot(s) was read, and is as it was written.")


@dataclass(frozen=True, slots=True)
class DiffReport:
    """What changed from one snapshot to another."""

    diff: SnapshotDiff

    def show(self) -> None:
        """A table of both sides, and one of what they share."""
        before, after = self.diff.before, self.diff.after
        pairs = zip(_sides(before), _sides(after), strict=True)
        lines = [(name, old, new, "" if old == new else "changed") for (name, old), (_, new) in pairs]
        _print_columns("diff", ("", before.snapshot_id, after.snapshot_id, ""), lines)
        named = {
            "blocks": self.diff.blocks,
            "parts": self.diff.parts,
            "embedding files": self.diff.embeddings,
            "index shards": self.diff.shards,
        }
        shared = [(name, *_counts(overlap)) for name, overlap in named.items()]
        num_shared, num_new = self.diff.num_shared_shard_bytes, self.diff.num_new_shard_bytes
        shared.append(("bytes of shards", size(num_shared), "", size(num_new)))
        _print_columns("content", ("", "in both", "gone", "new"), shared)


@dataclass(frozen=True, slots=True)
class MoveReport:
    """What was live, and what is."""

    move: Move

    def show(self) -> None:
        """A table."""
        print_table("snapshots", self.rows())

    def rows(self) -> list[tuple[str, object]]:
        """Before and after."""
        is_same = self.move.before == self.move.after
        return [
            ("live before", self.move.before or "nothing, or nobody knows"),
            ("live now", self.move.after + (" (was live already: nothing changed)" if is_same else "")),
            ("a running service", "answers from it already" if is_same else "follows within seconds"),
        ]


@dataclass(frozen=True, slots=True)
class CollectedReport:
    """What garbage collection found, kept and removed."""

    report: CollectionReport

    def show(self) -> None:
        """Counts that add up, and why each kept snapshot was kept."""
        is_dry_run = self.report.is_dry_run
        print_table("snapshots gc" + (" (dry run: nothing was removed)" if is_dry_run else ""), self.rows())
        lines = [
            *((one, self._removed(), self._why_removed()) for one in self.report.removed),
            *((one, "kept", why) for one, why in self.report.kept.items()),
        ]
        _print_columns("snapshots", ("snapshot", "", "why"), lines)
        if is_dry_run:
            console().print("Nothing was removed yet: the same command without --dry-run removes it.")

    def rows(self) -> list[tuple[str, object]]:
        """Of each kind: kept + removed = found. Files go that no kept snapshot, run or pointer names."""
        report = self.report
        found, removed = report.found, report.removed_artifacts
        return [
            ("snapshots", self._sum(len(report.kept) + len(report.removed), len(report.removed))),
            ("index shards", self._sum(len(found.shards), len(removed.shards))),
            ("embedding files", self._sum(len(found.embeddings), len(removed.embeddings))),
            ("encoders", self._sum(len(found.encoders), len(removed.encoders))),
            ("leftovers of runs that died", self._sum(report.num_leftovers, report.num_leftovers)),
            ("disk space to free" if report.is_dry_run else "disk space freed", size(report.num_freed_bytes)),
        ]

    def _sum(self, num_found: int, num_removed: int) -> str:
        return f"{num_found - num_removed:,} kept + {num_removed:,} {self._removed()} = {num_found:,} found"

    def _removed(self) -> str:
        return "to remove" if self.report.is_dry_run else "removed"

    def _why_removed(self) -> str:
        among = f", not among the newest {self.report.num_newest}" if self.report.num_newest else ""
        return f"neither live nor previous{among}, not being read"


def listed_snapshots(store: Store) -> list[ListedSnapshot]:
    """All snapshots of a store, also when the pointer or manifests are damaged."""
    ids = list_snapshots(store)
    pointer = _readable_pointer(store)
    return [
        ListedSnapshot(
            snapshot_id=one,
            state=_state(one, pointer, ids),
            built_at_seconds=store.modified_at_seconds(snapshot_path(one)),
            manifest=_readable(store, one),
        )
        for one in ids
    ]


def size(num_bytes: int) -> str:
    """Bytes with the unit that suits them."""
    value, units = float(num_bytes), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:,.0f} bytes" if units[0] == "bytes" else f"{value:.3g} {units[0]}"


def age(seconds: float) -> str:
    """A duration in its largest unit."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def fact(value: object) -> str:
    """Numbers as people read them, digests cut short."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    text = str(value)
    is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:12] if is_digest else text


def settings(values: dict[str, object]) -> str:
    """A mapping on one line."""
    return ", ".join(f"{name} {fact(value)}" for name, value in values.items()) or "none"


def shard_bytes(manifest: SnapshotManifest) -> int:
    """Of all its shards."""
    return sum(shard.num_bytes for shard in manifest.shards)


def recall(manifest: SnapshotManifest) -> str:
    """The measured recall@5, or what was measured in its place."""
    checks = {check["name"]: check["found"] for check in manifest.gate.get("checks", [])}
    measured = {name: found for name, found in checks.items() if name.startswith("recall@")}
    if "recall@5" in measured:
        return f"{measured['recall@5']:.4f}"
    return ", ".join(f"{name.removeprefix('recall')} {found:.4f}" for name, found in measured.items()) or "not measured"


def index_of(manifest: SnapshotManifest) -> str:
    """Number and kind of its shards."""
    return f"{len(manifest.shards):,} {'/'.join(sorted({shard.kind for shard in manifest.shards}))}"


def _line(listed: ListedSnapshot, now_seconds: float) -> tuple[object, ...]:
    manifest, built = listed.manifest, _ago(listed.built_at_seconds, now_seconds)
    if manifest is None:
        return (listed.snapshot_id, *[""] * 6, built, f"{listed.state}, manifest damaged")
    return (
        listed.snapshot_id,
        manifest.encoder_step,
        manifest.num_rows,
        index_of(manifest),
        size(shard_bytes(manifest)),
        recall(manifest),
        _ago(manifest.encoder_saved_at_seconds, now_seconds),
        built,
        listed.state,
    )


def _tuning_line(manifest: SnapshotManifest, tried: dict[str, Any]) -> list[str]:
    is_chosen = manifest.search_setting.items() <= tried.items()
    facts = [format(tried[name], form) if name in tried else "" for name, (_, form) in _TUNING_COLUMNS.items()]
    return ["chosen" if is_chosen else "", *facts]


def _ago(at_seconds: float, now_seconds: float) -> str:
    return f"{age(now_seconds - at_seconds)} ago"


def _state(snapshot_id: str, pointer: SnapshotPointer | None, ids: Sequence[str]) -> str:
    if pointer is None:
        return "?"
    if snapshot_id == pointer.snapshot:
        return "live"
    if snapshot_id == pointer.previous(ids):
        return "previous"
    return "was live" if snapshot_id in pointer.history else "not live"


def _readable_pointer(store: Store) -> SnapshotPointer | None:
    try:
        return read_pointer(store)
    except ArtifactCorruptError:
        return None


def _readable(store: Store, snapshot_id: str) -> SnapshotManifest | None:
    try:
        return load_snapshot(store, snapshot_id)
    except ArtifactCorruptError:
        return None


def _sides(manifest: SnapshotManifest) -> list[tuple[str, str]]:
    return [
        ("corpus", manifest.corpus_digest[:12]),
        ("rows", f"{manifest.num_rows:,}"),
        ("encoder", manifest.encoder_digest[:12]),
        ("step", f"{manifest.encoder_step:,}"),
        ("precision", manifest.precision),
        ("index", settings(manifest.index_spec)),
        ("search setting", settings(manifest.search_setting)),
        ("shards", f"{len(manifest.shards):,}, {size(shard_bytes(manifest))}"),
        ("recall@5", recall(manifest)),
    ]


def _counts(overlap: Overlap) -> tuple[str, str, str]:
    return f"{overlap.num_shared:,}", f"{overlap.num_gone:,}", f"{overlap.num_new:,}"


def _print_columns(title: str, columns: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, style="bold" if number == 0 else None, overflow="fold")
    for line in lines:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in line))
    console().print(table, "")
