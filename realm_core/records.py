"""The records that flow between stages, and their Arrow schemas."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import pyarrow as pa

SEPARATOR = "<sep>"
"""Stands between title and body in the text that a uid is taken of (the reference's rule)."""

UID_BYTES = 20

BLOCK_SCHEMA = pa.schema(
    [
        pa.field("uid", pa.binary(UID_BYTES), nullable=False),
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("body", pa.string(), nullable=False),
        pa.field("title_token_ids", pa.list_(pa.uint16()), nullable=False),
        pa.field("body_token_ids", pa.list_(pa.uint16()), nullable=False),
        pa.field("sentence_starts", pa.list_(pa.uint16()), nullable=False),
        pa.field("salient_span_starts", pa.list_(pa.uint16()), nullable=False),
        pa.field("salient_span_stops", pa.list_(pa.uint16()), nullable=False),
    ]
)
"""One row per block. Sentence starts and salient spans are offsets into `body_token_ids`, half-open."""


@dataclass(frozen=True, slots=True)
class Document:
    """One article as ingested."""

    document_id: str
    """Stable from dump to dump: the page id of a MediaWiki export, `id` or the title of a JSON line."""
    title: str
    paragraphs: tuple[str, ...]
    """Plain text, one paragraph each, without markup; never empty strings."""


@dataclass(frozen=True, slots=True)
class Block:
    """The unit of retrieval: whole sentences of one document, at most 288 word pieces with title and markers."""

    document_id: str
    title: str
    body: str
    title_token_ids: tuple[int, ...]
    body_token_ids: tuple[int, ...]
    sentence_starts: tuple[int, ...]
    """Offset in `body_token_ids` of each sentence's first token; the first is 0, strictly increasing."""
    salient_spans: tuple[tuple[int, int], ...] = field(default=())
    """Half-open offsets into `body_token_ids`, sorted, disjoint, each inside one sentence."""

    @property
    def uid(self) -> bytes:
        """SHA-1 of `"{title} <sep> {body}"`, 20 bytes."""
        return block_uid(self.title, self.body)


def block_uid(title: str, body: str) -> bytes:
    """SHA-1 (20 bytes) of a block's text; the same block of two dumps has the same uid."""
    return hashlib.sha1(f"{title} {SEPARATOR} {body}".encode(), usedforsecurity=False).digest()


def blocks_to_batch(blocks: list[Block]) -> pa.RecordBatch:
    """Block records as one Arrow batch of `BLOCK_SCHEMA`."""
    columns = {
        "uid": [block.uid for block in blocks],
        "document_id": [block.document_id for block in blocks],
        "title": [block.title for block in blocks],
        "body": [block.body for block in blocks],
        "title_token_ids": [block.title_token_ids for block in blocks],
        "body_token_ids": [block.body_token_ids for block in blocks],
        "sentence_starts": [block.sentence_starts for block in blocks],
        "salient_span_starts": [[start for start, _ in block.salient_spans] for block in blocks],
        "salient_span_stops": [[stop for _, stop in block.salient_spans] for block in blocks],
    }
    return pa.record_batch([pa.array(columns[f.name], f.type) for f in BLOCK_SCHEMA], schema=BLOCK_SCHEMA)
