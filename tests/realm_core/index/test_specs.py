from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_core.errors import ArtifactCorruptError, UsageError
from realm_core.index.specs import (
    FEW_ROWS,
    FLAT_MAX_ROWS,
    MIN_ROWS_PER_LEAF,
    IndexSpec,
    ResolvedSpec,
    leaves_for,
    require_trainable,
    resolve_spec,
)


def test_parameters_of_a_quarter_of_wikipedia():
    resolved = resolve_spec(IndexSpec(), 13_353_718 // 4, "linux")
    assert resolved == ResolvedSpec(kind="faiss", num_leaves=8192)


def test_parameters_of_100_000_rows():
    resolved = resolve_spec(IndexSpec(kind="scann"), 100_000, "linux")
    assert resolved == ResolvedSpec(kind="scann", num_leaves=1024)


@pytest.mark.parametrize(("kind", "most"), [("auto", FLAT_MAX_ROWS), ("faiss", FEW_ROWS), ("scann", FEW_ROWS)])
def test_few_rows_are_all_compared(kind, most):
    assert resolve_spec(IndexSpec(kind=kind), most, "linux") == ResolvedSpec(kind="flat")
    assert resolve_spec(IndexSpec(kind=kind), most + 1, "linux").num_leaves > 0


def test_exact_is_exact_at_any_size():
    assert resolve_spec(IndexSpec(kind="exact"), 13_353_718, "linux") == ResolvedSpec(kind="exact")


@pytest.mark.parametrize("num_rows", [1_000, 1_000_000])
def test_scann_off_linux_is_refused_at_any_size(num_rows):
    with pytest.raises(UsageError, match=r"platform 'darwin'.*kind faiss"):
        resolve_spec(IndexSpec(kind="scann"), num_rows, "darwin")
    assert resolve_spec(IndexSpec(), num_rows, "darwin") == resolve_spec(IndexSpec(), num_rows, "linux")


def test_an_empty_shard_is_refused():
    with pytest.raises(UsageError, match="0 rows"):
        resolve_spec(IndexSpec(), 0, "linux")


@given(num_rows=st.integers(FEW_ROWS, 10**10))
def test_every_leaf_has_far_more_rows_than_training_needs(num_rows):
    assert num_rows >= 2 * MIN_ROWS_PER_LEAF * leaves_for(num_rows)


@given(num_rows=st.integers(1, 10**10))
def test_resolved_specs_survive_json(num_rows):
    resolved = resolve_spec(IndexSpec(), num_rows, "linux")
    assert ResolvedSpec.from_json(json.loads(json.dumps(resolved.to_json())), where="x") == resolved
    assert list(resolved.to_json()) == sorted(resolved.to_json())


def test_an_unknown_kind_is_refused():
    with pytest.raises(UsageError, match=r"kind = 'hnsw'; expected one of auto, exact, faiss, scann"):
        IndexSpec(kind="hnsw")


def test_index_spec_as_json():
    assert IndexSpec().to_json() == {"kind": "auto"}


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "faiss"},
        {"kind": "hnsw", "num_leaves": 1},
        {"kind": "flat", "num_leaves": 0, "num_leaves_searched": 0, "min_reordered": 0},
    ],
)
def test_parameters_of_another_version_are_refused(values):
    with pytest.raises(ArtifactCorruptError, match=re.escape("searcher.json") + ".*Build the index again"):
        ResolvedSpec.from_json(values, where="searcher.json")


@pytest.mark.parametrize("num_leaves", [0, 52])
def test_too_few_rows_for_the_leaves_are_refused_before_training(num_leaves):
    with pytest.raises(UsageError, match=f"num_leaves = {num_leaves}; expected 1 to 51"):
        require_trainable(ResolvedSpec(kind="faiss", num_leaves=num_leaves), 2_000)
    require_trainable(ResolvedSpec(kind="faiss", num_leaves=51), 2_000)
