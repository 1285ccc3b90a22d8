from __future__ import annotations

import json

import numpy as np
import pytest

from realm_core.errors import GateError
from realm_core.index.gate import GateReport, check_embeddings, measure_recall
from realm_core.index.searcher import SearchHits


def hits_of(rows: list[list[int]]) -> SearchHits:
    return SearchHits(np.zeros((len(rows), len(rows[0])), np.float32), np.array(rows))


def test_recall_by_hand():
    exact = hits_of([[1, 2, 3, 4], [5, 6, 7, 8]])
    approximate = hits_of([[2, 1, 9, 3], [5, 0, 0, 6]])
    assert measure_recall(approximate, exact, at=(1, 2, 4)) == {1: 0.5, 2: 0.75, 4: 0.625}


def test_missing_hits_are_neither_wanted_nor_found():
    exact = hits_of([[1, 2, -1, -1]])
    assert measure_recall(hits_of([[1, -1, -1, -1]]), exact, at=(4,)) == {4: 0.5}
    assert measure_recall(exact, exact, at=(1, 4)) == {1: 1.0, 4: 1.0}


@pytest.mark.parametrize(
    ("approximate", "at"),
    [(hits_of([[1, 2]]), (3,)), (hits_of([[1]]), (1,)), (hits_of([[1, 2], [1, 2]]), (1,))],
)
def test_recall_of_other_queries_or_too_few_hits_is_refused(approximate, at):
    with pytest.raises(GateError, match="recall measurement"):
        measure_recall(approximate, hits_of([[1, 2]]), at=at)


def test_recall_without_queries_is_not_a_perfect_recall():
    empty = SearchHits(np.empty((0, 5), np.float32), np.empty((0, 5), np.int64))
    with pytest.raises(GateError, match="at least one"):
        measure_recall(empty, empty, at=(5,))


def test_good_embeddings_pass(embeddings):
    check_embeddings(embeddings, where="part 3", dimension=32)


def test_a_zero_row_is_named():
    rows = np.ones((70_000, 2), np.float32)
    rows[66_000, 0] = 0.0
    check_embeddings(rows, where="part 3")
    rows[66_001] = 0.0
    with pytest.raises(GateError, match="part 3: all zeros in the embedding of row 66001"):
        check_embeddings(rows, where="part 3")


def test_a_nan_row_is_named(embeddings):
    broken = embeddings.copy()
    broken[9] = np.nan
    with pytest.raises(GateError, match="NaN or infinity in the embedding of row 9"):
        check_embeddings(broken, where="part 3")


def test_another_width_is_refused(embeddings):
    with pytest.raises(GateError, match="32 dimensions; expected 128"):
        check_embeddings(embeddings, where="part 3", dimension=128)


def test_a_report_names_every_check_that_failed_and_no_other():
    report = GateReport()
    report.check("row count", found=99, expected=100, passed=False)
    report.check("uid digest", found="ab", expected="ab", passed=True)
    report.check("recall@10", found=0.5, expected=">= 0.9", passed=np.False_)
    assert not report.passed
    with pytest.raises(GateError) as raised:
        report.raise_if_failed("snapshot s1")
    assert raised.value.where == "snapshot s1"
    assert raised.value.found == "row count = 99; recall@10 = 0.5"
    assert raised.value.expected == "row count 100; recall@10 >= 0.9"
    assert "--target-recall" in raised.value.action


def test_a_report_survives_json():
    report = GateReport()
    report.check("recall@10", found=0.95, expected=">= 0.9", passed=True)
    report.raise_if_failed("snapshot s1")
    values = json.loads(json.dumps(report.to_json()))
    assert values["passed"] is True
    assert GateReport.from_json(values) == report
