"""What would fail at some step of pre-training, found before anything is started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from pipelines.encoders import require_usable_encoder
from realm_core.errors import EncoderError, TrainingError, UsageError
from realm_core.modeling.checkpoints import load_tokenizer, tokenizer_digest
from realm_core.modeling.weights import read_config
from realm_core.retrieval.query_encoder import require_same_tokenizer
from realm_core.storage.block_store import read_part
from realm_core.storage.encoder_store import encoder_path

if TYPE_CHECKING:
    from realm_core.storage.block_store import CorpusManifest
    from realm_core.storage.files import Store
    from realm_core.storage.snapshots import SnapshotManifest
    from realm_core.training.featurization import FeaturizerConfig
    from realm_core.training.masked_queries import Masking

COMMAND = "realm pretrain"


def check_inputs(
    store: Store,
    corpus: CorpusManifest,
    snapshot: SnapshotManifest,
    *,
    reader: str,
    featurizer: FeaturizerConfig,
    masking: Masking,
) -> None:
    """Raises what the run would come to, where encoders, corpus and options do not go together.

    Raises:
        EncoderError: the reader's checkpoint is no BERT, has another tokenizer than the corpus, or too few positions;
            or the snapshot's encoder gives embeddings of another width than the snapshot holds.
        UsageError: more candidates than blocks.
        TrainingError: salient spans are to be masked, and the corpus has none.
    """
    directory = require_usable_encoder(reader)
    require_same_tokenizer(tokenizer_digest(load_tokenizer(directory)), corpus.tokenizer_digest)
    _check_positions(reader, read_config(directory), featurizer)
    _check_width(store, snapshot)
    _check_candidates(featurizer, corpus.num_blocks)
    if masking == "salient-span":
        _check_salient_spans(store, corpus)


def _check_positions(reader: str, fields: dict[str, Any], featurizer: FeaturizerConfig) -> None:
    num_positions = fields.get("max_position_embeddings", 512)
    if num_positions < featurizer.joint_length_tokens:
        raise EncoderError(
            where=reader,
            found=f"{num_positions} positions",
            expected=f"{featurizer.joint_length_tokens}, for a query of {featurizer.query_length_tokens} tokens joined "
            f"with a block of {featurizer.block_length_tokens}",
            action="Lower --query-length-tokens, or ingest the corpus with a smaller --max-block-tokens.",
        )


def _check_width(store: Store, snapshot: SnapshotManifest) -> None:
    width = store.read_json(f"{encoder_path(snapshot.encoder_digest)}/config.json")["retriever_proj_size"]
    if width != snapshot.dimension:
        raise EncoderError(
            where=f"encoder {snapshot.encoder_digest[:12]}",
            found=f"embeddings of width {width}",
            expected=f"width {snapshot.dimension}, that of snapshot {snapshot.snapshot_id}",
            action="Run `realm embed` and `realm index` with this encoder, then start again.",
        )


def _check_candidates(featurizer: FeaturizerConfig, num_blocks: int) -> None:
    """A query's own block is no candidate of it."""
    most = num_blocks - 1 + featurizer.has_null_document
    if featurizer.num_candidates > most:
        raise UsageError(
            where=COMMAND,
            found=f"--num-candidates {featurizer.num_candidates} over {num_blocks} blocks",
            expected=f"at most {most}: a query's own block is no candidate",
            action="Lower --num-candidates, or ingest a larger corpus.",
        )


def _check_salient_spans(store: Store, corpus: CorpusManifest) -> None:
    """Reads parts until one has a salient span: as a rule the first."""
    for part in corpus.parts:
        starts = read_part(store, part, ["salient_span_starts"])["salient_span_starts"]
        if pc.sum(pc.list_value_length(starts)).as_py():
            return
    raise TrainingError(
        where=COMMAND,
        found=f"no salient span in {corpus.num_blocks:,} blocks of {corpus.source}",
        expected="sentences that name dates, people or places, written with capital letters",
        action="Ingest such text, or mask at random with --masking random-uniform or random-span.",
    )
