"""The demo's table and report, from the records of its stages."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pipelines.display import clock
from pipelines.pretrain_report import example_counts
from pipelines.report import ReportData
from realm_core.training.run_folder import RunFolder

if TYPE_CHECKING:
    from realm_core.storage.files import Store

Stages = dict[str, dict[str, Any]]


def demo_rows(stages: Stages) -> list[tuple[str, object]]:
    """The short table at the end."""
    ingest, pretrain = stages["ingest"], stages["pretrain"]
    wall = sum(stage["stage_seconds"] for stage in stages.values())
    return [
        ("pages read", _pages(ingest["counts"])),
        ("blocks", f"{ingest['num_blocks']:,} in {ingest['num_parts']} parts"),
        *_recall_rows(stages),
        ("refreshes", f"{pretrain['num_refreshes_live']} live, {pretrain['num_refreshes_failed']} failed"),
        ("swaps", pretrain["num_swaps"]),
        ("searches", f"{pretrain['num_searches']:,}, {pretrain['num_failed_searches']} failed"),
        ("staleness while training", _staleness(pretrain)),
        ("live snapshot", f"{pretrain['live_snapshot_id']}, {pretrain['live_staleness_steps']} steps stale"),
        (
            "seconds by stage, last attempt",
            ", ".join(f"{name} {stage['stage_seconds']:.0f}" for name, stage in stages.items()),
        ),
        ("all stages, last attempts", clock(wall)),
    ]


def report_data(store: Store, stages: Stages) -> ReportData:
    """All that the page shows."""
    pretrain = stages["pretrain"]
    run = RunFolder(store, pretrain["run_name"])
    asked = stages["ask"]
    return ReportData(
        title="REALM on a Wikipedia dump, with an index that stays fresh",
        created_at=time.strftime("%Y-%m-%d %H:%M", time.localtime()),
        headline=_headline(stages),
        counts=_counts(stages),
        stages=[{"name": name, "seconds": s["stage_seconds"], "was_done": False} for name, s in stages.items()],
        warmup=RunFolder(store, stages["warmup"]["run_name"]).read_metrics(),
        steps=run.read_metrics(),
        refreshes=run.read_refreshes(),
        recall=pretrain["recall"],
        asked=[
            {"question": question, "evidence": evidence}
            for question, evidence in zip(asked["questions"], asked["found"]["queries"], strict=True)
        ],
    )


def _headline(stages: Stages) -> list[tuple[str, str]]:
    """Tiles at the top of the page: short values."""
    pretrain, recall = stages["pretrain"], stages["pretrain"]["recall"]
    measured = [("recall@5 before", recall[0]), ("recall@5 after", recall[-1])] if recall else []
    return [
        *[(name, f"{record['recall_at_5']:.3f}") for name, record in measured],
        ("swaps while serving", str(pretrain["num_swaps"])),
        ("failed searches", f"{pretrain['num_failed_searches']} of {pretrain['num_searches']}"),
        ("live snapshot", f"{pretrain['live_staleness_steps']} steps stale"),
        ("all stages", clock(sum(stage["stage_seconds"] for stage in stages.values()))),
    ]


def _recall_rows(stages: Stages) -> list[tuple[str, object]]:
    if "recall" not in stages["serve"]:
        return [("recall@5", "not measured: no --questions for this source")]
    before, after = stages["serve"]["recall"], stages["pretrain"]["recall"][-1]
    count = before["num_questions"]
    return [
        ("recall@5 before pre-training", f"{before['recall_at_5']:.3f} ({count} questions)"),
        ("recall@5 after pre-training", f"{after['recall_at_5']:.3f} (snapshot of step {after['encoder_step']})"),
    ]


def _pages(counts: dict[str, int]) -> str:
    names = ("documents", "redirects", "other_namespaces", "dropped_by_title", "empty")
    return f"{counts['pages']} = " + " + ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in names)


def _staleness(pretrain: dict[str, Any]) -> str:
    return f"mean {pretrain['mean_staleness_steps']:.1f}, most {pretrain['max_staleness_steps']} steps"


def _counts(stages: Stages) -> list[tuple[str, list[tuple[str, str]]]]:
    ingest, embed, index, pretrain = (stages[name] for name in ("ingest", "embed", "index", "pretrain"))
    read = [*ingest["counts"].items(), ("blocks", ingest["num_blocks"]), ("word_pieces", ingest["num_tokens"])]
    built = [("rows", index["num_rows"]), ("shards", index["num_shards"]), ("index_bytes", index["num_bytes"])]
    found = [(name, round(value, 4)) for name, value in index["recall_at"].items()]
    return [
        ("ingest", _named(read)),
        ("embed", _named(embed["counts"].items())),
        ("index", _named([*built, *found])),
        ("pre-training", example_counts(pretrain["num_seen"], pretrain["num_used"], pretrain["skipped"])),
    ]


def _named(pairs: Any) -> list[tuple[str, str]]:  # noqa: ANN401 - any pairs of name and number
    return [(name.replace("_", " "), f"{value:,}") for name, value in pairs]
