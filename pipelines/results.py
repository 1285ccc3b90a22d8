"""What a command prints when it is done."""

from __future__ import annotations

from typing import Any

from pipelines.display import print_table
from pipelines.evidence_text import print_evidence, print_hits
from realm_core.retrieval.evidence import EvidenceResult


def show_result(config: Any, result: Any) -> None:  # noqa: ANN401 - any command's pair
    """Evidence for `search` and `ask`, what a result shows of itself by `show`, a table of counts for all others."""
    if hasattr(result, "show"):
        result.show()
    elif not isinstance(result, EvidenceResult):
        print_table(type(config).__name__.removesuffix("Config").lower(), result.rows())
    elif hasattr(config, "questions"):
        print_evidence(config.questions, result)
    else:
        print_hits(config.text, result)
