"""Stores of blocks for benchmarks, with parts of a given size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from realm_core.records import Block, blocks_to_batch
from realm_core.storage.block_store import CorpusManifest, PartEntry, write_part
from realm_core.storage.digests import digest_of_uids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.embed_blocks import Blocks
    from realm_core.storage.files import Store


def write_corpus(store: Store, blocks: Blocks, *, rows_per_part: int) -> CorpusManifest:
    """Writes the blocks, whose texts all differ, as parts in their order; the last part may be smaller."""
    records = list(_records(blocks))
    parts: list[PartEntry] = []
    for start in range(0, len(records), rows_per_part):
        own = records[start : start + rows_per_part]
        digest, _ = write_part(store, pa.Table.from_batches([blocks_to_batch(own)]))
        num_tokens = sum(len(block.title_token_ids) + len(block.body_token_ids) for block in own)
        parts.append(PartEntry(digest=digest, num_rows=len(own), num_tokens=num_tokens, first_block_id=start))
    uids = np.array([block.uid for block in records], dtype="V20")
    return CorpusManifest(
        parts=tuple(parts),
        tokenizer_digest="benchmark",
        max_block_tokens=int(blocks.lengths_R.max()),
        uid_digest=digest_of_uids(uids),
        source="benchmark",
        counts={},
    )


def _records(blocks: Blocks) -> Iterator[Block]:
    rows = zip(blocks.titles, blocks.bodies, blocks.title_ids, blocks.body_ids, strict=True)
    for number, (title, body, title_ids, body_ids) in enumerate(rows):
        yield Block(
            document_id=str(number),
            title=title,
            body=body,
            title_token_ids=tuple(title_ids.tolist()),
            body_token_ids=tuple(body_ids.tolist()),
            sentence_starts=(0,),
        )
