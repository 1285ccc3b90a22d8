from __future__ import annotations

import math
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import report_plots as plots
from pipelines.report import (
    ReportData,
    duration,
    excerpt,
    noise_sentence,
    num_steps_meanwhile,
    overlap_sentence,
    render_report,
)

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

SECTIONS = ("loop", "fresh", "training", "recall", "questions", "stages")
ALLOWED_ADDRESSES = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
VOID_TAGS = {"meta", "link", "br"}
INTERVAL_STEPS = 40
EPOCH = 1_790_000_000.0


class Page(HTMLParser):
    """Text and ids of a page; fails on a tag that is closed out of order, a script, or an address to load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID_TAGS:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href"):
                assert value is not None and value.startswith(("#", "data:"))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID_TAGS:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def example_steps(rng: random.Random, num_steps: int, live_at_step: dict[int, int]) -> list[dict[str, Any]]:
    """`live_at_step`: training step at which a snapshot goes live, to the step of its encoder."""
    steps, at, encoder_step, saved_at = [], EPOCH, 0, {0: EPOCH - 70.0}
    for step in range(num_steps):
        is_busy = step % INTERVAL_STEPS < 24 and step >= INTERVAL_STEPS
        wait, forward = rng.uniform(0.01, 0.2), rng.uniform(0.9, 1.1) * (1.6 if is_busy else 1.0)
        backward = forward * rng.uniform(1.7, 2.1)
        at += wait + forward + backward + 0.02
        saved_at[step] = at
        encoder_step = live_at_step.get(step, encoder_step)
        steps.append(
            {
                "step": step,
                "at_seconds": at,
                "loss": 3.2 + 2.4 * math.exp(-step / 70) + rng.gauss(0, 0.45),
                "retrieval_utility": 0.5 * (1 - math.exp(-step / 90)) - 0.08 + rng.gauss(0, 0.16),
                "snapshot_id": f"step-{encoder_step:06d}-c0ffee{encoder_step:06d}",
                "staleness_steps": step - encoder_step,
                "staleness_seconds": at - saved_at[encoder_step],
                "wait_seconds": wait,
                "forward_seconds": forward,
                "backward_seconds": backward,
                "num_tokens": 24_000 + rng.randrange(4_000),
                "batches_ready": 2 if wait < 0.15 else 1,
            }
        )
    return steps


def live_refresh(step: int, started: float, live: float) -> dict[str, Any]:
    embed, swap = 0.82 * (live - started), 0.9
    seconds = {"embed": embed, "index": live - started - embed - swap - 0.3, "publish": 0.2, "swap": swap}
    return {
        "step": step,
        "status": "live",
        "error": "",
        "started_at_seconds": started,
        "live_at_seconds": live,
        "seconds": seconds,
        "recall_at": {"recall@1": 0.992, "recall@10": 0.978},
        "counts": {"rows": 4112, "rows_made": 4112},
        "overlap_at_10": 0.5 + step / 1000,
        "snapshot_id": f"step-{step:06d}-c0ffee{step:06d}",
        "skipped_steps": [160] if step == 200 else [],
    }


def failed_refresh(step: int, started: float) -> dict[str, Any]:
    error = "index shard 2: recall@10 0.61 of 128 queries; expected at least 0.90. Raise --index.num-leaves-searched."
    failed = {"status": "failed", "error": error, "live_at_seconds": 0.0, "seconds": {}, "snapshot_id": ""}
    failed |= {"counts": {}, "overlap_at_10": None}
    return live_refresh(step, started, started + 9) | failed | {"recall_at": {}}


def example_data(*, title: str = "REALM on a Wikipedia excerpt", num_steps: int = 320) -> ReportData:
    rng = random.Random(7)
    live_at_step = {64: 40, 104: 80, 226: 200, 264: 240, 303: 280}
    steps = example_steps(rng, num_steps, live_at_step)
    at = [row["at_seconds"] for row in steps]
    refreshes = [live_refresh(step, at[step], at[live]) for live, step in live_at_step.items()]
    refreshes.insert(2, failed_refresh(120, at[120]))
    recalls = zip((0, 40, 80, 200, 240, 280), (0.41, 0.46, 0.49, 0.52, 0.57, 0.56), strict=True)
    body = (
        "The aardvark is a medium-sized, burrowing, nocturnal mammal native to Africa. Unlike other insectivores, it "
    )
    evidence = [
        {"block_id": 31 + i, "relevance": 9.41 - i * 0.37, "title": name, "body": body * 4}
        for i, name in enumerate(("Aardvark", "Aardwolf", "Afrikaans", "Ant & <b>anteater</b>", "Africa"))
    ]
    questions = (
        "What does the Afrikaans word aardvark mean?",
        "Which Phoenician letter is the oldest known forerunner of the letter A?",
        "A 1728 essay by which rival of Swift may have provoked A Modest Proposal?",
        "In which year was the apollo program announced?",
    )
    return ReportData(
        title=title,
        created_at="2026-11-23 21:40 UTC, 31 min 12 s on 2 cores",
        headline=[
            ("recall@5 before training", "0.41"),
            ("recall@5 after", "0.56"),
            ("swaps while training", "5"),
            ("failed searches", "0 of 41,230"),
            ("staleness now", "39 steps"),
            ("wall time", "31 min"),
        ],
        counts=[
            ("ingest", [("pages", "206"), ("redirects", "99"), ("documents", "106"), ("blocks", "4,112")]),
            ("embed", [("blocks", "4,112"), ("blocks/s", "51.3"), ("parts", "3")]),
            ("index", [("kind", "scann"), ("shards", "2"), ("recall@10", "0.978"), ("bytes", "2,411,002")]),
        ],
        stages=[
            {"name": "ingest", "seconds": 21.4, "was_done": True},
            {"name": "warm-up", "seconds": 312.0, "was_done": False},
            {"name": "embed", "seconds": 81.2, "was_done": False},
            {"name": "index", "seconds": 0.84, "was_done": False},
            {"name": "pre-train", "seconds": at[-1] - EPOCH, "was_done": False},
        ],
        warmup=[
            {
                "step": step,
                "loss": 2.1 * math.exp(-step / 40) + 0.5 + rng.gauss(0, 0.12),
                "removed_accuracy": min(1.0, 0.55 + 0.3 * (1 - math.exp(-step / 30)) + rng.gauss(0, 0.07)),
                "kept_accuracy": None if step % 3 == 0 else min(1.0, 0.93 + rng.gauss(0, 0.05)),
            }
            for step in range(100)
        ],
        steps=steps,
        refreshes=refreshes,
        recall=[
            {
                "snapshot_id": f"step-{step:06d}-c0ffee{step:06d}",
                "encoder_step": step,
                "recall_at_5": share,
                "title_recall_at_5": share + 0.21,
                "num_questions": 104,
            }
            for step, share in recalls
        ],
        asked=[{"question": question, "evidence": evidence} for question in questions],
    )


def empty_data() -> ReportData:
    return ReportData(
        title="Nothing yet",
        created_at="",
        headline=[],
        counts=[],
        stages=[],
        warmup=[],
        steps=[],
        refreshes=[],
        recall=[],
        asked=[],
    )


@pytest.fixture(scope="module")
def html() -> str:
    return render_report(example_data())


def test_page_is_whole_and_loads_nothing(html: str) -> None:
    page = Page(html)
    assert html.lstrip().startswith("<!DOCTYPE html>")
    assert set(SECTIONS) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "script" not in page.tags
    assert set(re.findall(r"https?://[^\s\"'<)]*", html)) <= ALLOWED_ADDRESSES
    assert not re.search(r"@import|url\((?!#)", html)


def test_every_reference_inside_the_page_has_its_target(html: str) -> None:
    wanted = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html))
    assert {a or b for a, b in wanted} <= set(Page(html).ids)


def test_each_plot_is_there_with_a_caption_and_text_as_text(html: str) -> None:
    page = Page(html)
    assert page.tags.count("figure") == page.tags.count("figcaption") == 10
    for label in (
        "steps/min",
        "swap to a fresher snapshot",
        "mean of 16 steps",
        "sentence kept",
        "backward",
        "95 % interval",
        "overlap@10",
        "tokens/s",
    ):
        assert label in page.text


def test_tables_show_what_the_run_recorded(html: str) -> None:
    text = " ".join(Page(html).text.split())
    for cell in (
        "step-000040",
        "0.978",
        "✕ failed",
        "recall@10 0.61 of 128",
        "being older: step 160.",
    ):
        assert cell in text
    for cell in ("4,112", "was done before, reused", "5 min 12 s", "0 of 41,230", "Aardwolf", "relevance 9.41"):
        assert cell in text


def test_all_text_is_escaped() -> None:
    html = render_report(example_data(title='<script>alert("x")</script>', num_steps=310))
    page = Page(html)
    assert "script" not in page.tags and "b" not in page.tags
    assert '<script>alert("x")</script>' in page.text and "Ant & <b>anteater</b>" in page.text


def test_page_of_an_empty_run_says_what_it_had_not_and_has_no_section_of_another_kind_of_run() -> None:
    html = render_report(empty_data())
    page = Page(html)
    assert set(SECTIONS) & set(page.ids) == {"loop", "fresh", "training", "recall"}
    assert "figure" not in page.tags
    assert "#questions" not in html and "#stages" not in html
    for line in ("no refresh", "no pre-training step", "No snapshot was evaluated"):
        assert line in page.text


@pytest.mark.parametrize("name", ["warmup", "steps", "refreshes", "recall", "asked", "stages", "counts", "headline"])
def test_any_one_sequence_alone_makes_a_page(name: str) -> None:
    rows = getattr(example_data(), name)[-1:]
    fields = {field: [] for field in ReportData.__slots__} | {"title": "t", "created_at": "", name: rows}
    Page(render_report(ReportData(**fields)))


def test_same_data_give_the_same_bytes_in_another_process(html: str) -> None:
    script = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('t', sys.argv[1]);"
        "m = importlib.util.module_from_spec(spec); spec.loader.exec_module(m);"
        "sys.stdout.buffer.write(m.render_report(m.example_data()).encode())"
    )
    other = subprocess.run([sys.executable, "-c", script, __file__], capture_output=True, check=True, timeout=60)
    assert other.stdout.decode() == html


def test_settings_of_the_reader_survive_and_do_not_matter(html: str) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 31, "svg.fonttype": "path", "axes.facecolor": "red"}):
        assert render_report(example_data()) == html
        assert matplotlib.rcParams["font.size"] == 31


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    from realm_core.errors import UsageError

    for name in [package, f"{package}.figure"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"no Python package {package}.*pip install 'realm-at-scale\[demo\]'"):
        render_report(example_data())


def test_steps_meanwhile_are_those_that_ended_while_the_refresh_ran() -> None:
    steps = [{"at_seconds": at} for at in (10.0, 20.0, 30.0, 47.0)]
    refresh = {"status": "live", "started_at_seconds": 10.0, "live_at_seconds": 30.0}
    assert num_steps_meanwhile(steps, refresh) == 2
    assert num_steps_meanwhile(steps, refresh | {"status": "failed"}) is None
    sentence = overlap_sentence(steps, [refresh])
    assert sentence.startswith("2 of the 4 training steps") and "10.0 s (median)" in sentence and "17.0 s." in sentence


def test_noise_is_the_interval_of_the_last_snapshot_that_was_asked() -> None:
    rows = [{"recall_at_5": share, "num_questions": number} for share, number in ((0.1, 100), (0.5, 100), (0.0, 0))]
    assert "0.40 to 0.60" in noise_sentence(rows)
    assert noise_sentence(rows[2:]) == ""


def test_wilson_interval_is_the_published_one() -> None:
    low, high = plots.wilson_interval(0.5, 100)
    assert (low, high) == pytest.approx((0.403832, 0.596168), abs=1e-6)
    assert plots.wilson_interval(0.0, 10) == pytest.approx((0.0, 0.277533), abs=1e-6)
    assert plots.wilson_interval(0.0, 0) == (0.0, 1.0)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_share_and_mirrors(hits_of: tuple[int, int]) -> None:
    hits, number = hits_of
    low, high = plots.wilson_interval(hits / number, number)
    assert 0 <= low <= hits / number <= high <= 1
    assert plots.wilson_interval(1 - hits / number, number) == pytest.approx((1 - high, 1 - low))


def test_running_mean_looks_back_only_and_passes_over_nan() -> None:
    nan = math.nan
    assert plots.running_mean([2.0, 4.0, 9.0], 2) == [2.0, 3.0, 6.5]
    assert plots.running_mean([nan, 4.0, nan, nan], 2) == pytest.approx([nan, 4.0, 4.0, nan], nan_ok=True)


def test_spans_are_joined_over_small_gaps_only() -> None:
    assert plots.merge_spans([(5.0, 6.0), (0.0, 1.0), (1.5, 2.0), (0.2, 0.4)], gap=0.5) == [(0.0, 2.0), (5.0, 6.0)]


def test_a_step_counts_by_its_share_of_each_bin() -> None:
    spans = [(0.0, 1.0), (1.0, 3.0), (5.0, 5.0), (9.0, 10.0)]
    assert plots.step_rates(spans, [0.0, 2.0, 4.0, 10.0]) == pytest.approx([0.75, 0.25, 1 / 6])


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0.1, 50)), max_size=8))
def test_rates_add_up_to_the_steps(starts_and_lengths: list[tuple[float, float]]) -> None:
    spans = [(start, start + length) for start, length in starts_and_lengths]
    assert sum(plots.step_rates(spans, range(0, 101, 4))) * 4 == pytest.approx(len(spans))


def test_stages_of_a_refresh_end_when_its_snapshot_is_live() -> None:
    row = live_refresh(40, 100.0, 200.0)
    assert plots.refresh_stages(row) == {
        "embed": (100.0, pytest.approx(182.0)),
        "index": (pytest.approx(182.1), pytest.approx(198.9)),
        "swap": (pytest.approx(198.9), 200.0),
    }


def test_a_swap_is_a_step_on_another_snapshot_than_the_step_before() -> None:
    steps = [{"step": step, "snapshot_id": name} for step, name in ((3, "a"), (4, "a"), (5, "b"), (6, "b"), (7, "c"))]
    assert plots.swap_steps(steps) == [5, 7]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.336, "0.34 s"),
        (12.46, "12.5 s"),
        (59.96, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7621, "2 h 07 min"),
    ],
)
def test_durations_are_written_for_people(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_an_excerpt_ends_between_words() -> None:
    assert excerpt("short") == "short"
    assert excerpt("word " * 100) == "word " * 59 + "word …"
    assert excerpt("x" * 400) == "x" * 300 + " …"
