"""Reading a source into block records: cleaning, blocking and tokenizing are spread over Ray tasks."""

from __future__ import annotations

import tempfile
from collections import deque
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayTaskError
from tokenizers import Tokenizer

from cluster.calls import as_realm_error
from realm_core.corpora.raw_documents import clean
from realm_core.storage.corpus_writer import CorpusWriter, WrittenCorpus
from realm_core.text.blocking import BlockBuilder
from realm_core.text.salient_spans import RuleTagger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from realm_core.corpora.raw_documents import RawDocument
    from realm_core.corpora.source import Source
    from realm_core.records import Block, Document
    from realm_core.storage.files import Store

DOCUMENTS_PER_TASK = 8
TASKS_AHEAD_PER_CPU = 2
TASK_CPUS = 0.5

CleanedDocument = tuple["Document | None", "list[Block]"]


def ingest_source(
    source: Source,
    store: Store,
    *,
    tokenizer: Tokenizer,
    max_block_tokens: int,
    num_parts: int,
    num_cpus: float,
    progress: Callable[[int], None] = lambda _: None,
) -> WrittenCorpus:
    """Writes the source's parts; documents keep the source's order inside each part.

    `progress` is called with the documents made so far; the source counts what it read.

    Raises:
        SourceError: the source is damaged, truncated, or holds no article; no part has been written then.
    """
    with tempfile.TemporaryDirectory(prefix="realm-ingest-") as folder:
        writer = CorpusWriter(store, num_parts=num_parts, spill_folder=Path(folder))
        ahead = max(2, int(num_cpus * TASKS_AHEAD_PER_CPU))
        for document, blocks in _cleaned(source.raw_documents(), tokenizer.to_str(), max_block_tokens, ahead):
            source.counts.count_cleaned(document)
            writer.add(blocks)
            progress(source.counts.documents)
        source.check_has_documents()
        return writer.finish()


def _cleaned(
    raw_documents: Iterator[RawDocument], tokenizer_json: str, max_block_tokens: int, ahead: int
) -> Iterator[CleanedDocument]:
    """Cleaned documents in their order, with a bounded number of tasks under way."""
    task = _clean_and_block.options(num_cpus=TASK_CPUS)
    shared = ray.put(tokenizer_json)
    under_way: deque[Any] = deque()
    while batch := list(islice(raw_documents, DOCUMENTS_PER_TASK)):
        under_way.append(task.remote(batch, shared, max_block_tokens))
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
def _clean_and_block(batch: list[RawDocument], tokenizer_json: str, max_block_tokens: int) -> list[CleanedDocument]:
    builder = BlockBuilder(
        tokenizer=Tokenizer.from_str(tokenizer_json), max_block_tokens=max_block_tokens, tagger=RuleTagger()
    )
    documents = [clean(raw) for raw in batch]
    return [(document, builder.blocks(document) if document else []) for document in documents]
