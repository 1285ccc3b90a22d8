"""Whether embeddings hold every block of a corpus exactly once, and are sound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from realm_core.index.gate import GateReport
from realm_core.storage.digests import digest_of_uids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from realm_core.engines.part_embedder import EmbeddedPart
    from realm_core.storage.block_store import CorpusManifest


def check_embedded(corpus: CorpusManifest, parts: Sequence[EmbeddedPart]) -> GateReport:
    """The checks of a corpus's embeddings.

    The worker that makes a part, or finds it made, looks at all its rows. An engine embeds some rows of its first part
    twice before anything is written: an encoder that is not in evaluation mode stops there.
    """
    report = GateReport()
    num_rows = sum(len(part.uids) for part in parts)
    uid_digest = digest_of_uids(np.concatenate([part.uids for part in parts]))
    order = sum(part.part != entry for part, entry in zip(parts, corpus.parts, strict=True))
    num_usable = sum(part.num_usable_rows for part in parts)
    not_tried = sum(not part.was_reused and not part.num_repeated_rows for part in parts)
    dimensions = sorted({part.dimension for part in parts})
    report.check("rows", found=num_rows, expected=corpus.num_blocks, passed=num_rows == corpus.num_blocks)
    report.check("uid digest", found=uid_digest, expected=corpus.uid_digest, passed=uid_digest == corpus.uid_digest)
    report.check("parts out of order", found=order, expected=0, passed=order == 0)
    report.check("rows finite and not zero", found=num_usable, expected=num_rows, passed=num_usable == num_rows)
    report.check("dimensions", found=str(dimensions), expected="one", passed=len(dimensions) == 1)
    report.check("parts of engines that repeated no row", found=not_tried, expected=0, passed=not_tried == 0)
    return report
