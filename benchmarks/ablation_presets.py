"""Sizes of the ablation, and its rows."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from realm_core.errors import UsageError
from realm_core.storage.digests import digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from realm_core.training.masked_queries import Masking

RECIPE = 3
"""To be raised when stages or rows are made differently at the same sizes."""
STALE_FACTOR = 30
"""The paper's stale index is refreshed 30 times more seldom (REALM, table 2)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """One size of the whole ablation; the rows differ in nothing but what `Row` says."""

    hidden_size: int
    num_layers: int
    query_length_tokens: int
    block_length_tokens: int
    """Of a block with its markers; the paragraph's text, in which answers are looked for, stays whole."""
    num_articles: int | None
    """Articles of the corpus: those of the questions first, then the others in the file's order; None for all."""
    num_questions: int
    """Validation questions, drawn with a seed, the same for every row."""
    mlm_steps: int
    mlm_batch_size: int
    mlm_learning_rate: float
    ict_steps: int
    ict_batch_size: int
    ict_learning_rate: float
    realm_steps: int
    realm_batch_size: int
    realm_learning_rate: float
    num_candidates: int
    refresh_interval_steps: int
    """Also the steps between two measurements of recall."""
    seeds: tuple[int, ...]

    @property
    def digest(self) -> str:
        """Names the folder of what is done: another size, or another recipe, never goes on from this one's results."""
        sizes = asdict(replace(self, seeds=()))
        return digest_of(RECIPE, *[[name, value] for name, value in sizes.items()])[:12]


def with_changes(preset: Preset, changes: Sequence[str]) -> Preset:
    """The preset with sizes changed by `name=number`.

    Raises:
        UsageError: no such size, or no number.
    """
    sizes = {name: value for name, value in asdict(preset).items() if name != "seeds"}
    wrong = [change for change in changes if not _is_change(change, sizes)]
    if wrong:
        raise UsageError(
            where="--set",
            found=", ".join(wrong),
            expected=f"NAME=NUMBER with a name of {', '.join(sizes)}",
            action="Correct these sizes.",
        )
    return replace(preset, **{name: json.loads(number) for name, _, number in (c.partition("=") for c in changes)})


def _is_change(change: str, sizes: Mapping[str, object]) -> bool:
    name, _, number = change.partition("=")
    try:
        return name in sizes and json.loads(number) > 0
    except (ValueError, TypeError):
        return False


PRESETS = {
    "smoke": Preset(
        hidden_size=64, num_layers=2, query_length_tokens=48, block_length_tokens=96, num_articles=60,
        num_questions=500, mlm_steps=40, mlm_batch_size=16, mlm_learning_rate=1e-3, ict_steps=40, ict_batch_size=32,
        ict_learning_rate=1e-3, realm_steps=20, realm_batch_size=8, realm_learning_rate=5e-4, num_candidates=4,
        refresh_interval_steps=10, seeds=(0,),
    ),
    "cpu": Preset(
        hidden_size=128, num_layers=2, query_length_tokens=48, block_length_tokens=128, num_articles=None,
        num_questions=8533, mlm_steps=600, mlm_batch_size=64, mlm_learning_rate=1e-3, ict_steps=15,
        ict_batch_size=64, ict_learning_rate=5e-4, realm_steps=120, realm_batch_size=32, realm_learning_rate=5e-5,
        num_candidates=5, refresh_interval_steps=40, seeds=(0, 1),
    ),
    "gpu": Preset(
        hidden_size=256, num_layers=4, query_length_tokens=64, block_length_tokens=288, num_articles=None,
        num_questions=8533, mlm_steps=600, mlm_batch_size=128, mlm_learning_rate=5e-4, ict_steps=15,
        ict_batch_size=256, ict_learning_rate=3e-4, realm_steps=400, realm_batch_size=128, realm_learning_rate=5e-5,
        num_candidates=8, refresh_interval_steps=40, seeds=(0, 1, 2),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A way to pre-train; what is not said is as in the paper."""

    label: str
    paper_recall_at_5: float | None
    """Of table 2, in per cent; the paper has no row without the null document."""
    masking: Masking = "salient-span"
    has_null_document: bool = True
    stale_factor: int = 1


ICT = "ict"
"""The row that is the start of all others: the warm-up alone."""
ICT_LABEL, ICT_PAPER = "inverse cloze warm-up only", 13.9

ROWS = {
    "realm": Row(label="REALM", paper_recall_at_5=38.5),
    "random_uniform": Row(label="random uniform masks", paper_recall_at_5=24.2, masking="random-uniform"),
    "random_span": Row(label="random span masks", paper_recall_at_5=26.1, masking="random-span"),
    "stale_30x": Row(label="30 times staler index", paper_recall_at_5=15.1, stale_factor=STALE_FACTOR),
    "no_null": Row(label="without the null document", paper_recall_at_5=None, has_null_document=False),
}
