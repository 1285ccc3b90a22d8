"""What `realm pretrain` takes."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.resources import DeviceChoice
from pipelines.validation import at_least, require_optimizer_options, require_share
from realm_core.engines.precision import TrainingPrecisionChoice
from realm_core.errors import UsageError
from realm_core.training.masked_queries import Masking


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """Train retriever and knowledge-augmented encoder together (REALM) over an index that is refreshed meanwhile."""

    store: str
    """Where artifacts live: a local folder or an fsspec URL, with a published snapshot (`realm index`)."""
    encoder: str
    """Directory or hub id of the BERT-family checkpoint that the knowledge-augmented encoder starts from. The
    retriever goes on from the published snapshot's encoder."""
    separate_embedders: bool = False
    """Queries get an embedder of their own, a copy of the snapshot's, in place of one that they share with blocks (the
    reference's `share_embedders=False`); where the snapshot's encoder has two, both go on being trained in any case."""
    num_steps: int = 200_000
    """Optimizer steps (paper: 200,000)."""
    refresh_interval_steps: int = 500
    """Steps between checkpoints that go to the refresher (paper: about 500)."""
    checkpoint_interval_steps: int | None = None
    """Steps between checkpoints: a crash costs at most these. Each refresh makes one in any case; by default no others
    are made. The one of the best retrieval utility is exported at the end."""
    batch_size: int = 8
    """Masked sentences per rank and step (paper: 512 over all)."""
    accumulation_steps: int = 1
    """Micro-batches that a rank takes its sentences in, for batches larger than memory. Loss and gradient are those of
    the whole batch; a run may go on with another value."""
    gradient_checkpointing: bool = False
    """Makes each Transformer layer again in the backward pass instead of keeping what it computed: much less memory for
    about a third more time. A run may go on with another value."""
    num_candidates: int = 8
    """Candidates per sentence, the null document included (paper: 8)."""
    null_document: bool = True
    """Whether each sentence's first candidate is the null document (paper: yes, section 3.4). Without it all candidates
    are retrieved blocks, and retrieval utility, the gain over the null document, is not available."""
    masking: Masking = "salient-span"
    """What is masked of a sentence: a salient span (paper), or as its ablations (table 2) word pieces at random as in
    BERT (random-uniform), or spans of geometric length as in SpanBERT (random-span)."""
    query_length_tokens: int = 96
    """Longest query with its markers (paper: 96)."""
    learning_rate: float = 3e-5
    """Peak of the schedule (paper: 3e-5)."""
    num_warmup_steps: int | None = None
    """Steps of linear rise; by default min(10000, max(100, steps / 10)), the reference's rule."""
    num_trainers: int = 1
    """Ranks; on a cluster with GPUs, one per GPU."""
    num_embedding_workers: int = 2
    """The refresher's embedding actors; on a cluster with GPUs, one per GPU."""
    num_shards: int = 2
    """Index shards of each snapshot."""
    target_recall: float = 0.95
    """Share of the exact top 5 that searches of a refreshed index must find, or it does not go live."""
    max_staleness_steps: int | None = None
    """Training waits before a step that would search a snapshot of an encoder more steps old than this; at least
    --refresh-interval-steps. Off by default, as in the paper: training never waits for a refresh. Where a refresh fails
    it goes on all the same, and says so."""
    num_kept_snapshots: int = 3
    """Newest snapshots that stay in the store, with their embeddings and encoders, besides the live one, the one before
    and the one that the run began with; what others alone need is removed after each refresh."""
    questions: str | None = None
    """JSON lines of `question`, `answers`, `title`, plain or compressed: recall@5 is measured with them after each
    swap."""
    tensorboard: str | None = None
    """Folder on this machine for TensorBoard's event files, in a folder of the run's name; by default there are none.
    The run's own records, JSON lines in the store, are written in any case."""
    report: str | None = None
    """File that a page with the run's curves is written to, at the end; by default none."""
    dropout: float | None = None
    """Dropout probability; by default the checkpoint's."""
    device: DeviceChoice = "auto"
    """Where training and embedding run: cuda, cpu, or auto: cuda where the cluster has GPUs. Each rank and each
    embedding actor takes one; where there are too few, a single rank and the embedding actors share them."""
    precision: TrainingPrecisionChoice = "auto"
    """Arithmetic of forward and backward: fp32, bf16, or auto: bf16 on GPUs and on CPUs with bf16 units."""
    seed: int = 0
    """Of data order, masks and dropout."""
    address: str | None = None
    """Ray cluster to join (`auto`, `ray://...`); by default one is started on this machine."""
    dry_run: bool = False
    """Makes every check that can be made, looks for a place for each rank and embedding actor, prints the plan."""

    def __post_init__(self) -> None:
        at_least(
            "realm pretrain",
            num_steps=(self.num_steps, 1),
            seed=(self.seed, 0),
            refresh_interval_steps=(self.refresh_interval_steps, 1),
            checkpoint_interval_steps=(self.checkpoints_every, 1),
            batch_size=(self.batch_size, 1),
            accumulation_steps=(self.accumulation_steps, 1),
            num_candidates=(self.num_candidates, 2),
            query_length_tokens=(self.query_length_tokens, 8),
            num_trainers=(self.num_trainers, 1),
            num_embedding_workers=(self.num_embedding_workers, 1),
            num_shards=(self.num_shards, 1),
            num_kept_snapshots=(self.num_kept_snapshots, 1),
        )
        if self.max_staleness_steps is not None:
            at_least("realm pretrain", max_staleness_steps=(self.max_staleness_steps, self.refresh_interval_steps))
        require_optimizer_options(
            "realm pretrain",
            learning_rate=self.learning_rate,
            num_warmup_steps=self.num_warmup_steps,
            dropout=self.dropout,
        )
        require_share("realm pretrain", target_recall=self.target_recall)
        if self.accumulation_steps > self.batch_size:
            raise UsageError(
                where="realm pretrain",
                found=f"--accumulation-steps {self.accumulation_steps} with --batch-size {self.batch_size}",
                expected="at most as many micro-batches as sentences",
                action="Lower --accumulation-steps, or raise --batch-size.",
            )

    @property
    def checkpoints_every(self) -> int:
        """Steps between checkpoints, given or by default."""
        return self.refresh_interval_steps if self.checkpoint_interval_steps is None else self.checkpoint_interval_steps
