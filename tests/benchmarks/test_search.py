from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest

from benchmarks.oracle import ROOT
from benchmarks.search_corpus import NUM_TUNING_HITS, load_exact_rows, load_queries, load_vectors, recall_at, store_task
from benchmarks.search_indexes import NUMS_REORDERED, SIDES
from benchmarks.search_ours import OurShards, row_ranges
from benchmarks.search_side import chosen_point
from benchmarks.search_tables import Measured, best_single, rate_ratio, setting_text, summary, table


def measured(side, rates, *, recall=0.95, **more):
    return Measured(
        side=side,
        build_seconds=2.0,
        build_peak_bytes=10**9,
        index_bytes=10**8,
        tuned_recall=recall,
        recall=recall,
        rates=rates,
        milliseconds=[float(n) for n in range(100, 0, -1)],
        **more,
    )


def test_recall_is_the_share_of_the_exact_top_that_is_found():
    exact = np.array([[1, 2, 3], [4, 5, 6]])
    assert recall_at(2, np.array([[2, 9, 1], [4, 5, 0]]), exact) == 3 / 4


def test_shards_are_of_about_as_many_rows():
    assert row_ranges(10, 4) == [(0, 2), (2, 5), (5, 7), (7, 10)]


def test_the_fastest_that_finds_enough_is_chosen_or_else_the_best():
    points = [{"recall": r, "seconds": s} for r, s in ((0.9, 1), (0.96, 3), (0.97, 2), (0.99, 5))]
    assert chosen_point(points, 0.95)["recall"] == 0.97
    assert chosen_point(points, 0.999)["recall"] == 0.99


def test_peers_may_search_from_one_leaf_to_all():
    settings = SIDES["scann"](10_000).settings()
    assert {setting["num_leaves"] for setting in settings} >= {1, 2, 3, 100}
    assert {setting["num_reordered"] for setting in settings} == set(NUMS_REORDERED)


def test_the_best_single_index_is_the_fastest_with_the_target():
    sides = {
        "exact": measured("exact", [1.0], recall=1.0, first_rate=9.0),
        "faiss-sqrt": measured("faiss-sqrt", [1.0], recall=0.94, first_rate=8.0),
        "faiss-4sqrt": measured("faiss-4sqrt", [1.0], first_rate=6.0),
        "scann": measured("scann", [1.0], first_rate=7.0),
        "ours-1": measured("ours-1", [1.0], first_rate=9.0),
    }
    assert best_single(sides, 0.95).side == "scann"
    assert best_single(sides, 0.99) is None


def test_ratios_are_of_the_same_round():
    ours, theirs = measured("ours-4", [10.0, 1.0, 12.0]), measured("orqa", [5.0, 0.25, 4.0])  # 2, 4, 3
    assert rate_ratio(ours, theirs) == 3


def test_latencies_are_by_rank():
    side = measured("x", [1.0])
    assert (side.latency(50), side.latency(99)) == (51.0, 100.0)


def test_table_and_last_line_have_what_was_not_measured_as_nothing():
    sides = {"ours-1": measured("ours-1", [10.0], setting={"leaf_fraction": 1 / 8, "num_reordered": 32})}
    assert table(sides, None).splitlines()[-1].split()[:8] == [
        *("ours-1", "2.0", "1.00", "0.10", "1/8", "leaves,", "32", "0.9500"),
    ]
    found = json.loads(json.dumps(summary(sides, None)))
    assert found["qps_vs_orqa_setting"] is None
    assert found["recall_at_5"] == 0.95
    assert found["ours"]["ours-1"]["qps"] == 10
    assert setting_text({}) == "-"
    assert setting_text({"num_leaves": 3, "num_reordered": 20}) == "3 leaves, 20"


def test_headline_ratios_are_of_four_shards():
    sides = {name: measured(name, [rate]) for name, rate in (("ours-1", 9.0), ("ours-4", 6.0), ("orqa", 2.0))}
    sides["scann"] = measured("scann", [8.0])
    found = summary(sides, sides["scann"])
    assert (found["qps_vs_orqa_setting"], found["qps_sharded_vs_single"]) == (3, 0.75)
    assert found["ours"]["ours-1"]["vs_single"] == 1.125


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    from benchmarks.search_corpus import synthetic_task

    return synthetic_task(tmp_path_factory.mktemp("search"), 12_000)


def test_exact_hits_are_those_of_the_matrix_product(small):
    relevances = load_queries(small.folder, "test")[:50] @ load_vectors(small.folder).T
    best = np.argsort(-relevances, axis=1)[:, :NUM_TUNING_HITS]
    assert recall_at(NUM_TUNING_HITS, load_exact_rows(small.folder, "test")[:50], best) == 1


def test_our_shards_find_what_they_are_tuned_to(small):
    side = OurShards(2)
    folder = small.folder / "two"
    folder.mkdir()
    with ThreadPoolExecutor(1, initializer=faiss.omp_set_num_threads, initargs=(1,)) as one_core:
        one_core.submit(side.build, folder).result()
    side.load(folder, 1)
    chosen = side.tune(0.9)
    queries, exact = load_queries(small.folder, "test"), load_exact_rows(small.folder, "test")
    assert chosen["recall"] >= 0.9
    assert recall_at(5, side.search(queries, 5, chosen["setting"]), exact) > 0.87
    assert chosen["setting"] in side.settings()


def test_shards_of_few_rows_have_nothing_to_set(small):
    side = OurShards(16)
    folder = small.folder / "four"
    folder.mkdir()
    side.build(folder)
    side.load(folder, 1)
    assert side.tune(0.9) == {"setting": {}, "recall": 1.0}
    queries, exact = load_queries(small.folder, "test"), load_exact_rows(small.folder, "test")
    assert recall_at(5, side.search(queries, 5, {}), exact) == 1


def test_the_benchmark_runs():
    command = [sys.executable, "-m", "benchmarks.search", "--rows", "10000", "--rounds", "1", "--seconds", "0"]
    command += ["--sides", "faiss-sqrt", "ours-1", "--threads", "1", "--target-recall", "0.8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["recall_at_5"] >= 0.75
    assert last["qps_sharded_vs_single"] > 0
    assert last["corpora"]["synthetic"]["best_single"] == "faiss-sqrt"


def test_too_few_rows_are_a_usage_error():
    command = [sys.executable, "-m", "benchmarks.search", "--rows", "10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "10,000 or more" in done.stderr


def test_a_store_without_a_corpus_is_an_error(tmp_path):
    from realm_core.errors import StoreError
    from realm_core.storage.files import Store

    with pytest.raises(StoreError):
        store_task(tmp_path / "task", Store(str(tmp_path / "store")), tmp_path)
