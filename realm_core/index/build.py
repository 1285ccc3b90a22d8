"""Builds or loads the searcher of the kind that a spec names; imports no other kind's library."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from realm_core.index.description import SearcherDescription
from realm_core.index.searcher import Searcher
from realm_core.index.specs import ResolvedSpec


class _SearcherClass(Protocol):
    def build(self, embeddings_RD: np.ndarray, spec: ResolvedSpec) -> Searcher: ...

    def load(self, directory: Path) -> Searcher: ...


def build_searcher(embeddings_RD: np.ndarray, spec: ResolvedSpec) -> Searcher:
    """The searcher over float32 `[R, D]` embeddings; raises `GateError` where one of them is not finite."""
    return _searcher_class(spec.kind).build(embeddings_RD, spec)


def load_searcher(directory: Path) -> Searcher:
    """The searcher that `Searcher.save` wrote; it answers what the saved one did."""
    return _searcher_class(SearcherDescription.read(directory).spec.kind).load(directory)


def import_searcher(kind: str) -> None:
    """Imports ahead of `load_searcher` what searching an index of that kind takes."""
    _searcher_class(kind)


def _searcher_class(kind: str) -> _SearcherClass:
    # Imported here: torch takes seconds, and a shard's process must start in less.
    if kind == "exact":
        from realm_core.index.exact import ExactSearcher

        return ExactSearcher
    if kind == "flat":
        from realm_core.index.flat import FlatSearcher

        return FlatSearcher
    if kind == "scann":
        from realm_core.index.scann_index import ScannSearcher

        return ScannSearcher
    from realm_core.index.faiss_index import FaissSearcher

    return FaissSearcher
