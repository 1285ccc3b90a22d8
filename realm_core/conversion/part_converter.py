"""Converting one part: records to blocks, published rows to embeddings; what a conversion task wraps.

Shapes: R rows, D projection.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from realm_core.errors import ArtifactCorruptError, SourceError
from realm_core.modeling.digests import tokenizer_digest
from realm_core.records import blocks_to_batch
from realm_core.storage.block_store import PartEntry, part_is_whole, read_part, write_part
from realm_core.storage.digests import digest_of, fixed_binary_to_numpy
from realm_core.storage.embedding_store import EmbeddingSpec, embeddings_are_whole, write_embeddings
from realm_core.text.ready_blocks import ReadyBlockBuilder
from realm_core.text.salient_spans import RuleTagger

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from realm_core.storage.files import Store

CONVERT_RULES = 1
"""Raised when sentence or span rules change, so that a rerun does not take old blocks for new."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartSource:
    """A part as its publisher has it."""

    first_record: int
    """Number of its first record: the block id of its row 0."""
    records: Sequence[bytes]
    """R texts in UTF-8."""
    embeddings_RD: np.ndarray | None
    """float32, or None where none were published."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedEmbeddings:
    """What names the embeddings of a conversion."""

    encoder_digest: str
    precision: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertedPart:
    """What became of a part."""

    entry: PartEntry
    uids: np.ndarray
    """[R] (V20)."""
    num_truncated: int
    """Records of more tokens than the encoder has positions."""
    was_reused: bool
    embeddings_were_reused: bool | None
    """None where there are none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Marker:
    """What a finished part leaves in the store."""

    part: str
    num_rows: int
    num_tokens: int
    num_truncated: int


class PartConverter:
    """Writes a part's block records and embeddings, unless they are there and whole."""

    def __init__(
        self,
        store: Store,
        *,
        tokenizer: Tokenizer,
        max_block_tokens: int,
        embeddings: PublishedEmbeddings | None,
        where: str,
    ) -> None:
        """`max_block_tokens` is what the encoder has positions for; `where` names the records in errors."""
        self._store = store
        self._builder = ReadyBlockBuilder(tokenizer=tokenizer, max_block_tokens=max_block_tokens, tagger=RuleTagger())
        self._rules = (CONVERT_RULES, tokenizer_digest(tokenizer), max_block_tokens)
        self._embeddings = embeddings
        self._where = where

    def convert(self, source: PartSource) -> ConvertedPart:
        """Makes what is missing of a part.

        Raises:
            SourceError: a record that is no UTF-8.
        """
        path = f"conversions/{digest_of(*self._rules, source.first_record, _digest_of_records(source.records))}.json"
        marker = self._finished(path)
        was_reused = marker is not None
        if marker is None:
            marker = self._write_blocks(source)
            self._store.write_json(path, asdict(marker))
        entry = PartEntry(
            digest=marker.part,
            num_rows=marker.num_rows,
            num_tokens=marker.num_tokens,
            first_block_id=source.first_record,
        )
        uids = fixed_binary_to_numpy(read_part(self._store, entry, ["uid"])["uid"])
        return ConvertedPart(
            entry=entry,
            uids=uids,
            num_truncated=marker.num_truncated,
            was_reused=was_reused,
            embeddings_were_reused=self._write_embeddings(entry, uids, source.embeddings_RD),
        )

    def _finished(self, path: str) -> _Marker | None:
        if not self._store.exists(path):
            return None
        try:
            marker = _Marker(**self._store.read_json(path, required=("part", "num_truncated")))
        except (ArtifactCorruptError, TypeError):
            return None  # the part is made again, and with it the marker
        return marker if part_is_whole(self._store, marker.part) else None

    def _write_blocks(self, source: PartSource) -> _Marker:
        texts = [self._text(source.first_record + row, record) for row, record in enumerate(source.records)]
        ready = self._builder.blocks(texts, first_number=source.first_record)
        blocks = [one.block for one in ready]
        digest, _ = write_part(self._store, pa.Table.from_batches([blocks_to_batch(blocks)]))
        return _Marker(
            part=digest,
            num_rows=len(blocks),
            num_tokens=sum(len(block.body_token_ids) for block in blocks),
            num_truncated=sum(one.is_truncated for one in ready),
        )

    def _text(self, number: int, record: bytes) -> str:
        try:
            return record.decode()
        except UnicodeDecodeError as error:
            raise SourceError(
                where=f"{self._where}, record {number:,}",
                found=f"bytes that are no UTF-8 ({error.reason} at byte {error.start})",
                expected="a text in UTF-8",
                action="Download or copy the file again and compare its checksum with the publisher's.",
            ) from error

    def _write_embeddings(self, part: PartEntry, uids: np.ndarray, embeddings_RD: np.ndarray | None) -> bool | None:
        """Whether they were there already."""
        if self._embeddings is None or embeddings_RD is None:
            return None
        spec = EmbeddingSpec(encoder_digest=self._embeddings.encoder_digest, precision=self._embeddings.precision)
        were_there = embeddings_are_whole(self._store, spec.digest(part.digest), part)
        if not were_there:
            write_embeddings(self._store, spec, part, uids, embeddings_RD)
        return were_there


def _digest_of_records(records: Sequence[bytes]) -> str:
    digest = hashlib.sha256(np.array([len(record) for record in records], dtype="<i8").tobytes())
    for record in records:
        digest.update(record)
    return digest.hexdigest()
