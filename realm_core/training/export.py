"""The best models of a pre-training run, as the published ones are laid out: a folder of each class.

embedder/   RealmEmbedder               `realm embed --encoder`, `realm convert --model`
scorer/     RealmScorer                 the same weights, as training used them
encoder/    RealmKnowledgeAugEncoder    the masked language model beside it

Where queries have an embedder of their own, `embedder/` embeds blocks, `query_embedder/` (a RealmEmbedder too) embeds
queries, and `scorer/`, which has both, is the one for `realm embed --encoder`.
"""

from __future__ import annotations

import logging
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import logging as transformers_logging

from realm_core.errors import ArtifactCorruptError, ArtifactMissingError
from realm_core.modeling.checkpoints import LoadedEncoder, save_encoder, save_tokenizer
from realm_core.modeling.scorer import RealmScorer
from realm_core.training.run_folder import best_of
from realm_core.training.state import load_trained_models

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from realm_core.modeling.knowledge_aug_encoder import RealmKnowledgeAugEncoder
    from realm_core.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


def export_best(run: RunFolder, *, encoder: LoadedEncoder, reader: RealmKnowledgeAugEncoder) -> dict[str, Any]:
    """Exports the run's best checkpoint; returns `best_step`, `best_retrieval_utility` and `export`, the URL.

    Where retrieval utility is not available (training without a null document) the newest counts as the best. One that
    cannot be read is named in the log, and the next best is exported. Encoder and reader are those that the run began
    with: their weights are replaced.

    Raises:
        ArtifactMissingError: the run has no checkpoint.
        ArtifactCorruptError: none can be read.
    """
    steps = run.checkpoint_steps()
    if not steps:
        raise ArtifactMissingError(
            where=f"run {run.name}",
            found="no checkpoint",
            expected="one at least, at the end of the run",
            action="Run the command again.",
        )
    step, utility = _load_best(run, steps, {**encoder.models, "encoder": reader})
    with tempfile.TemporaryDirectory(prefix="realm-export-") as folder:
        export_models(Path(folder), encoder=encoder, reader=reader)
        url = run.publish_export(Path(folder))
    return {"best_step": step, "best_retrieval_utility": utility, "export": url}


def _load_best(run: RunFolder, steps: list[int], models: dict[str, nn.Module]) -> tuple[int, float | None]:
    """Step and retrieval utility of the best checkpoint that can be read."""
    merits = run.merits()
    while True:
        best = best_of(merits)
        step, utility = (best.step, best.retrieval_utility) if best else (steps[-1], None)
        try:
            load_trained_models(run.local_checkpoint(step), models)
        except (ArtifactCorruptError, ArtifactMissingError) as error:
            steps = [other for other in steps if other != step]
            merits = [merit for merit in merits if merit.step != step]
            if not steps:
                raise
            logger.error("The best checkpoint, of step %d, cannot be read: the next best is exported. %s", step, error)
        else:
            return step, utility


def export_models(folder: Path, *, encoder: LoadedEncoder, reader: RealmKnowledgeAugEncoder) -> None:
    """Writes a folder of each class, each with the tokenizer."""
    for name, embedder in encoder.models.items():
        save_encoder(embedder, encoder.tokenizer, folder / name)
    scorer = RealmScorer(encoder.config, query_embedder=encoder.query_embedder)
    scorer.embedder = encoder.embedder
    for name, model in (("scorer", scorer), ("encoder", reader)):
        with _without_progress_bar():
            model.save_pretrained(folder / name)
        save_tokenizer(encoder.tokenizer, folder / name)


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    """Transformers draws one for each model that it writes, into the run's own display."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers has none
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
