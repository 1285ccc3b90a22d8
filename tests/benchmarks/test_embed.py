from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.answers import ANSWER
from benchmarks.embed_measure import Measured
from benchmarks.embed_report import Setting, summary_of
from benchmarks.embed_tables import (
    Likeness,
    Row,
    Run,
    aligned,
    likeness,
    mean_cosine_between_rows,
    median_ratio,
    rounded,
    runs_of,
    share_of_peak,
    table,
)
from benchmarks.embed_turns import SideProcess, SideSpec
from realm_core.errors import RealmError


def run(side, number, seconds, *, form="paragraphs", num_rows=10, peak=None):
    return Run(
        side=side,
        form=form,
        round=number,
        num_rows=num_rows,
        num_tokens=100,
        num_flops=1e9,
        seconds=seconds,
        peak=peak,
    )


def test_ratios_are_medians_of_those_of_each_round():
    ours = [run("ours", 0, 1), run("ours", 1, 4), run("ours", 2, 1)]
    theirs = [run("theirs", 0, 2), run("theirs", 1, 40), run("theirs", 2, 3)]  # ratios 2, 10, 3
    assert median_ratio(ours, theirs) == 3
    assert median_ratio(ours, []) is None


def test_a_side_timed_on_fewer_blocks_counts_by_its_rate():
    assert median_ratio([run("ours", 0, 1, num_rows=40)], [run("theirs", 0, 1, num_rows=10)]) == 4


def test_share_of_peak_is_by_round():
    assert share_of_peak([run("a", 0, 1, peak=2e9), run("a", 1, 2, peak=1e9), run("a", 2, 1, peak=1e9)]) == 0.5
    assert share_of_peak([run("a", 0, 1)]) is None


def test_runs_are_chosen_by_side_and_form():
    runs = [run("a", 1, 1), run("b", 0, 1), run("a", 0, 2), run("a", 0, 3, form="packed")]
    assert [one.seconds for one in runs_of(runs, "a", "paragraphs")] == [2, 1]


def test_likeness_is_the_cosine_row_by_row():
    found = likeness(np.array([[1.0, 0], [0, 2]]), np.array([[3.0, 0], [1, 1]]))
    assert found == Likeness(smallest_cosine=pytest.approx(0.5**0.5), mean_cosine=pytest.approx((1 + 0.5**0.5) / 2))
    assert likeness(np.ones((2, 3)), np.ones((2, 4))) is None


def test_cosine_between_different_rows():
    assert mean_cosine_between_rows(np.array([[1.0, 0], [0, 5], [-2, 0]])) == pytest.approx((0 + 0 - 1) / 3)
    assert mean_cosine_between_rows(np.ones((1, 2))) is None


def test_tables_are_aligned_and_have_dashes_for_what_is_unknown():
    assert aligned([("a", "bb"), ("cc", "d")]).splitlines() == ["a   bb", "------", "cc   d"]
    row = Row(
        side="x",
        name="X",
        blocks_per_second=1234.5,
        tokens_per_second=9.6,
        flops_per_second=2e9,
        share_of_peak=0.5,
        ratio_to_transformers=None,
        ratio_to_sentence_transformers=1.234,
        likeness=None,
        largest_difference=0.0,
    )
    assert table([row]).splitlines()[-1].split() == ["X", "1,234", "10", "2", "50%", "-", "1.23", "-", "-", "same"]


def test_rounding_is_to_significant_digits():
    assert rounded(0.012345678) == 0.01235
    assert rounded(None) is None


def test_the_last_line_has_all_keys_and_null_for_what_was_not_measured():
    runs = [run("transformers", 0, 10), run("ours-fp32", 0, 2, peak=1e9)]
    runs += [run(one.side, 0, one.seconds, form="packed") for one in runs]
    sides = ("transformers", "ours-fp32")
    measured = Measured(
        runs=runs,
        likeness={(side, form): None for side in sides for form in ("paragraphs", "packed")},
        differences={"ours-fp32": 0.0},
        names={side: side for side in sides},
        cosine_between_blocks=0.9,
    )
    setting = Setting(device="cpu", num_threads=2, activation="gelu", is_quick=False)
    summary = json.loads(json.dumps(summary_of(setting, measured)))
    assert summary["ratio_fp32_vs_hf_padded"] == summary["ratio_fp32_vs_hf_padded_packed"] == 5
    assert summary["share_of_peak"] == 0.5
    assert summary["ratio_int8_vs_hf_padded"] is None
    assert summary["ratio_vs_sentence_transformers"] is None
    assert summary["blocks_per_second"] == {"transformers": 1.0, "ours-fp32": 5.0}


def side_of(tmp_path, lines):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\n" + lines)
    script.chmod(0o755)
    return SideProcess(SideSpec(side="plain", python=str(script), every=1), tmp_path, "cpu", 1)


def test_a_side_answers_between_other_output(tmp_path):
    answer = f"echo '{ANSWER}{json.dumps({'name': 'N', 'seconds': 2.0})}'\n"
    side = side_of(tmp_path, f"echo noise\n{answer}read line\necho more noise\n{answer}")
    try:
        assert side.name == "N"
        assert side.ask("encode", blocks="x")["seconds"] == 2.0
        with pytest.raises(RealmError, match="exit code 0"):
            side.ask("encode", blocks="x")
    finally:
        side.close()


def test_a_side_that_dies_is_quoted(tmp_path):
    with pytest.raises(RealmError, match=r"the side plain: .* exit code 3: no such thing"):
        side_of(tmp_path, "echo no such thing >&2; exit 3\n")
    with pytest.raises(RealmError, match=r"exit code -9 \(SIGKILL\).*memory"):
        side_of(tmp_path, "kill -9 $$\n")
