"""Reading a source into block records: cleaning, blocking and tokenizing are spread over Ray tasks."""

from __future__ import annotations

import tempfile
from collections import deque
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayTaskError
from tokenizers import Tokenizer

from cluster.calls import as_realm_error
from realm_core.corpora.counts import ParagraphCounts
from realm_core.corpora.raw_documents import clean
from realm_core.storage.corpus_writer import CorpusWriter, WrittenCorpus
from realm_core.text.blocking import BlockBuilder, BlockedDocument
from realm_core.text.salient_spans import RuleTagger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from realm_core.corpora.raw_documents import RawDocument
    from realm_core.corpora.source import Source
    from realm_core.records import Document
    from realm_core.storage.files import Store
    from realm_core.text.blocking import BlockRule

DOCUMENTS_PER_TASK = 8
TASKS_AHEAD_PER_CPU = 2
TASK_CPUS = 0.5

CleanedDocument = tuple["Document | None", BlockedDocument]


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocking:
    """How documents become blocks, in any process."""

    tokenizer_json: str
    max_block_tokens: int
    rule: BlockRule

    def builder(self) -> BlockBuilder:
        """The builder of these blocks."""
        return BlockBuilder(
            tokenizer=Tokenizer.from_str(self.tokenizer_json),
            max_block_tokens=self.max_block_tokens,
            tagger=RuleTagger(),
            rule=self.rule,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestedCorpus:
    """What was written, and what became of the paragraphs."""

    written: WrittenCorpus
    paragraph_counts: ParagraphCounts | None
    """None by the rule `sentences`, which knows no paragraphs."""


def ingest_source(
    source: Source,
    store: Store,
    *,
    tokenizer: Tokenizer,
    max_block_tokens: int,
    block_rule: BlockRule,
    num_parts: int,
    num_cpus: float,
    progress: Callable[[int], None] = lambda _: None,
) -> IngestedCorpus:
    """Writes the source's parts; documents keep the source's order inside each part.

    `progress` is called with the documents made so far; the source counts what it read.

    Raises:
        SourceError: the source is damaged, truncated, or holds no article; no part has been written then.
    """
    blocking = Blocking(tokenizer_json=tokenizer.to_str(), max_block_tokens=max_block_tokens, rule=block_rule)
    paragraph_counts = ParagraphCounts() if block_rule == "paragraphs" else None
    with tempfile.TemporaryDirectory(prefix="realm-ingest-") as folder:
        writer = CorpusWriter(store, num_parts=num_parts, spill_folder=Path(folder))
        ahead = max(2, int(num_cpus * TASKS_AHEAD_PER_CPU))
        for document, blocked in _cleaned(source.raw_documents(), blocking, ahead):
            source.counts.count_cleaned(document)
            if document is not None and paragraph_counts is not None:
                paragraph_counts.count(document, blocked)
            writer.add(blocked.blocks)
            progress(source.counts.documents)
        source.check_has_documents()
        return IngestedCorpus(written=writer.finish(), paragraph_counts=paragraph_counts)


def _cleaned(raw_documents: Iterator[RawDocument], blocking: Blocking, ahead: int) -> Iterator[CleanedDocument]:
    """Cleaned documents in their order, with a bounded number of tasks under way."""
    task = _clean_and_block.options(num_cpus=TASK_CPUS)
    shared = ray.put(blocking)
    under_way: deque[Any] = deque()
    while batch := list(islice(raw_documents, DOCUMENTS_PER_TASK)):
        under_way.append(task.remote(batch, shared))
        if len(under_way) > ahead:
            yield from _result(under_way.popleft())
    while under_way:
        yield from _result(under_way.popleft())


def _result(ref: Any) -> list[CleanedDocument]:  # noqa: ANN401 - refs are untyped
    try:
        return list(ray.get(ref))
    except RayTaskError as error:
        raise as_realm_error(error) from error


@ray.remote
def _clean_and_block(batch: list[RawDocument], blocking: Blocking) -> list[CleanedDocument]:
    builder = blocking.builder()
    documents = [clean(raw) for raw in batch]
    return [(document, builder.cut(document) if document else BlockedDocument([])) for document in documents]
