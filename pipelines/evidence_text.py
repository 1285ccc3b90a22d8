"""Evidence as text for people."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from rich.markup import escape

from pipelines.display import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from realm_core.retrieval.evidence import Evidence, EvidenceResult

SNIPPET_CHARACTERS = 240


def print_hits(text: str, result: EvidenceResult) -> None:
    """One line of facts and a snippet per block."""
    out = console()
    out.print(f"[bold]{escape(text)}[/bold]   (snapshot {result.snapshot_id}, encoder step {result.encoder_step})")
    for rank, block in enumerate(result.queries[0], start=1):
        out.print(f"\n{rank}. {_facts(block)}")
        out.print(_indent(escape(_shorten(block.body, SNIPPET_CHARACTERS))))


def print_evidence(questions: Sequence[str], result: EvidenceResult, *, max_characters: int | None = None) -> None:
    """Each question with its evidence blocks, in full or shortened."""
    out = console()
    for number, (question, blocks) in enumerate(zip(questions, result.queries, strict=True)):
        out.print(f"\n[bold]{escape(question)}[/bold]")
        if result.answers:
            answer = result.answers[number]
            out.print(f"\n   answer: [bold]{escape(answer.text)}[/bold]   block {answer.block_id}")
        for rank, block in enumerate(blocks, start=1):
            out.print(f"\n{rank}. {_facts(block)}")
            body = block.body if max_characters is None else _shorten(block.body, max_characters)
            out.print(_indent(escape(body)))
    out.print(f"\n(snapshot {result.snapshot_id}, encoder step {result.encoder_step})")


def _facts(block: Evidence) -> str:
    title = f"[bold]{escape(block.title)}[/bold]   " if block.title else ""  # published records have none
    return f"{title}relevance {block.relevance:.3f}   block {block.block_id}"


def _shorten(text: str, max_characters: int) -> str:
    return textwrap.shorten(text, max_characters, placeholder=" …")


def _indent(text: str) -> str:
    return textwrap.fill(text, width=104, initial_indent="   ", subsequent_indent="   ")
