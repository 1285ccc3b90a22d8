"""`realm pretrain`: REALM pre-training over an index that is refreshed meanwhile."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.pretraining import PretrainPlan, pretrain_on_workers
from cluster.refresh import IndexPlan
from cluster.refresher import RefresherClient, RefresherConfig
from cluster.resources import ResourcePlan, plan_resources
from cluster.retrieval_service import RetrievalClient, service_left_as_found, start_service
from cluster.session import cluster_capacity, ray_session
from pipelines.display import Display
from pipelines.pretrain_watcher import PretrainWatcher
from pipelines.validation import at_least, require_share
from pipelines.watching import watch_in_background
from realm_core.engines.precision import TrainingPrecisionChoice
from realm_core.errors import TrainingError, UsageError
from realm_core.evaluation.datasets import Question, read_questions
from realm_core.index.specs import IndexSpec
from realm_core.modeling.checkpoints import load_tokenizer, tokenizer_digest
from realm_core.modeling.knowledge_aug_encoder import RealmKnowledgeAugEncoder
from realm_core.modeling.weights import resolve_directory
from realm_core.retrieval.evidence import EvidenceRetriever
from realm_core.retrieval.query_encoder import require_same_tokenizer
from realm_core.storage.block_store import load_corpus
from realm_core.storage.digests import digest_of
from realm_core.storage.encoder_pointer import PUBLISHED_PREFIX, EncoderVersion, set_current_encoder
from realm_core.storage.encoder_store import get_encoder
from realm_core.storage.files import Store
from realm_core.storage.lock import writer_lock
from realm_core.storage.snapshots import SnapshotManifest, load_snapshot
from realm_core.training.export import export_best
from realm_core.training.featurization import FeaturizerConfig
from realm_core.training.run_folder import RunFolder
from realm_core.training.schedule import ScheduleConfig

if TYPE_CHECKING:
    from realm_core.storage.block_store import CorpusManifest

LAST_REFRESH_TIMEOUT_SECONDS = 24 * 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """Train retriever and knowledge-augmented encoder together (REALM) over an index that is refreshed meanwhile."""

    store: str
    """Where artifacts live: a local folder or an fsspec URL, with a published snapshot (`realm index`)."""
    encoder: str
    """Directory or hub id of the BERT-family checkpoint that the knowledge-augmented encoder starts from. The
    retriever goes on from the published snapshot's encoder."""
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
    questions: str | None = None
    """JSON lines of `question`, `answers`, `title`: recall@5 is measured with them after each swap."""
    dropout: float | None = None
    """Dropout probability; by default the checkpoint's."""
    precision: TrainingPrecisionChoice = "auto"
    """Arithmetic of forward and backward: fp32, bf16, or auto: bf16 on GPUs and on CPUs with bf16 units."""
    seed: int = 0
    """Of data order, masks and dropout."""
    address: str | None = None
    """Ray cluster to join (`auto`, `ray://...`); by default one is started on this machine."""

    def __post_init__(self) -> None:
        at_least(
            "realm pretrain",
            num_steps=(self.num_steps, 1),
            refresh_interval_steps=(self.refresh_interval_steps, 1),
            checkpoint_interval_steps=(self.checkpoints_every, 1),
            batch_size=(self.batch_size, 1),
            accumulation_steps=(self.accumulation_steps, 1),
            num_candidates=(self.num_candidates, 2),
            query_length_tokens=(self.query_length_tokens, 8),
            num_trainers=(self.num_trainers, 1),
            num_embedding_workers=(self.num_embedding_workers, 1),
            num_shards=(self.num_shards, 1),
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


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainReport:
    """What the run came to; the means are over all steps."""

    run_name: str
    num_steps: int
    loss_first: float
    loss_last: float
    retrieval_utility_last: float
    mean_staleness_steps: float
    max_staleness_steps: int
    num_refreshes_live: int
    num_refreshes_failed: int
    num_swaps: int
    num_searches: int
    num_failed_searches: int
    live_snapshot_id: str
    live_staleness_steps: int
    best_step: int
    best_retrieval_utility: float
    """Mean over the steps before the best checkpoint, see `Merit`."""
    export: str
    """Where the best models lie in the published format: folders `embedder`, `scorer`, `encoder`."""
    recall: list[dict[str, Any]]
    was_done: bool

    def rows(self) -> list[tuple[str, object]]:
        """For the table at the end."""
        recall = [(f"recall@5 at step {r['encoder_step']}", f"{r['recall_at_5']:.3f}") for r in self.recall]
        return [
            ("run", self.run_name + (" (was done already)" if self.was_done else "")),
            ("steps", self.num_steps),
            ("loss, first and last tenth", f"{self.loss_first:.3f} -> {self.loss_last:.3f}"),
            ("retrieval utility, last tenth", f"{self.retrieval_utility_last:+.4f}"),
            ("refreshes", f"{self.num_refreshes_live} live, {self.num_refreshes_failed} failed"),
            ("swaps", self.num_swaps),
            ("searches", f"{self.num_searches:,}, {self.num_failed_searches:,} failed"),
            (
                "staleness while training",
                f"mean {self.mean_staleness_steps:.1f}, most {self.max_staleness_steps} steps",
            ),
            ("live snapshot", f"{self.live_snapshot_id}, {self.live_staleness_steps} steps stale"),
            ("best checkpoint", f"step {self.best_step}, retrieval utility {self.best_retrieval_utility:+.4f}"),
            ("exported to", self.export),
            *recall,
        ]


def run_pretrain(config: PretrainConfig) -> PretrainReport:
    """Trains to the last step and waits for the last refresh; goes on from the last checkpoint of the same run.

    Raises:
        StoreError: no published snapshot.
        EncoderError: the encoder has another vocabulary than the corpus.
        UsageError: more candidates than blocks.
        TrainingError: no salient spans, a loss that is not finite, or ranks that die again and again.
    """
    store = Store(config.store)
    questions = read_questions(config.questions) if config.questions else []
    with writer_lock(store, "realm pretrain"):
        run, start = _open_run(config, store)
        was_done = run.result() is not None
        if not was_done:
            corpus = load_corpus(store, start.corpus_digest)
            _check(config, corpus)
            _train(config, store, run, start, questions)
        return _report(run, was_done)


def _open_run(config: PretrainConfig, store: Store) -> tuple[RunFolder, SnapshotManifest]:
    """The run of this configuration and the snapshot that it started on.

    The live snapshot moves on as the run refreshes it, so the store remembers where the run began. A finished run
    whose snapshot is live is found again; training further from it takes another configuration.
    """
    what_matters = [
        config.num_steps, config.refresh_interval_steps, config.batch_size, config.num_candidates,
        config.query_length_tokens, config.learning_rate, config.num_warmup_steps, config.num_trainers,
        config.num_shards, config.seed, config.dropout, config.checkpoints_every,
    ]  # fmt: skip
    live = load_snapshot(store)
    reader = tokenizer_digest(load_tokenizer(resolve_directory(config.encoder)))
    run = RunFolder(store, "pretrain-" + digest_of(live.corpus_digest, reader, what_matters)[:12])
    begun = run.read_document("start")
    if begun is None:
        run.write_document("start", {"snapshot": live.snapshot_id})
        return run, live
    if run.result() is not None:
        return run, live  # where it began may be garbage by now
    return run, load_snapshot(store, begun["snapshot"])


def _check(config: PretrainConfig, corpus: CorpusManifest) -> None:
    require_same_tokenizer(tokenizer_digest(load_tokenizer(resolve_directory(config.encoder))), corpus.tokenizer_digest)
    if config.num_candidates > corpus.num_blocks - 1:
        raise UsageError(
            where="realm pretrain",
            found=f"--num-candidates {config.num_candidates} over {corpus.num_blocks} blocks",
            expected=f"at most {corpus.num_blocks - 1}",
            action="Lower --num-candidates, or ingest a larger corpus.",
        )


def _train(
    config: PretrainConfig, store: Store, run: RunFolder, start: SnapshotManifest, questions: list[Question]
) -> None:
    with (
        ray_session(config.address),
        service_left_as_found(),
        tempfile.TemporaryDirectory() as folder,
        Display() as display,
    ):
        num_cpus, num_gpus = cluster_capacity()
        resources = plan_resources(
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            embedding_workers=config.num_embedding_workers,
            trainer_workers=config.num_trainers,
            precision=config.precision,
        )
        service = start_service(store)
        refresher = RefresherClient.start(refresher_config(config, store, run, start, resources))
        watcher = PretrainWatcher(
            run=run,
            refresher=refresher,
            service=service,
            retriever=EvidenceRetriever(store, service),
            questions=questions,
            num_steps=config.num_steps,
            display=display,
        )
        with watch_in_background(watcher.look):
            plan = pretrain_plan(config, store, run, start)
            pretrain_on_workers(plan, resources=resources, refresher=refresher, folder=Path(folder))
            _wait_for_last_refresh(refresher)
        _finish(config, store, run, start, service, watcher)
        refresher.stop()


def refresher_config(
    config: PretrainConfig, store: Store, run: RunFolder, start: SnapshotManifest, resources: ResourcePlan
) -> RefresherConfig:
    """What the run's refresher keeps fresh."""
    index = IndexPlan(
        num_shards=config.num_shards, spec=IndexSpec(**start.index_spec), target_recall=config.target_recall
    )
    return RefresherConfig(
        store_url=store.url, corpus_digest=start.corpus_digest, run_name=run.name, index=index, plan=resources
    )


def pretrain_plan(config: PretrainConfig, store: Store, run: RunFolder, start: SnapshotManifest) -> PretrainPlan:
    """What the run's ranks need to know."""
    corpus = load_corpus(store, start.corpus_digest)
    return PretrainPlan(
        store_url=store.url,
        run_name=run.name,
        corpus_digest=start.corpus_digest,
        start_step=start.encoder_step,
        start_encoder_digest=start.encoder_digest,
        reader_checkpoint=config.encoder,
        featurizer=FeaturizerConfig(
            query_length_tokens=config.query_length_tokens,
            block_length_tokens=corpus.max_block_tokens,
            num_candidates=config.num_candidates,
        ),
        schedule=ScheduleConfig(
            num_steps=config.num_steps, learning_rate=config.learning_rate, num_warmup_steps=config.num_warmup_steps
        ),
        batch_size=config.batch_size,
        seed=config.seed,
        dropout=config.dropout,
        refresh_interval_steps=config.refresh_interval_steps,
        checkpoint_interval_steps=config.checkpoints_every,
        accumulation_steps=config.accumulation_steps,
        recompute_layers=config.gradient_checkpointing,
    )


def _wait_for_last_refresh(refresher: RefresherClient) -> None:
    deadline = time.monotonic() + LAST_REFRESH_TIMEOUT_SECONDS
    while not refresher.status().is_idle:
        if time.monotonic() > deadline:
            raise TrainingError(
                where="realm pretrain",
                found=f"a refresh that is not done after {LAST_REFRESH_TIMEOUT_SECONDS:g} s",
                expected="the last checkpoint live by then",
                action="Run the command again; embeddings that are done are kept.",
            )
        time.sleep(0.5)


def _finish(
    config: PretrainConfig,
    store: Store,
    run: RunFolder,
    start: SnapshotManifest,
    service: RetrievalClient,
    watcher: PretrainWatcher,
) -> None:
    """Exports the best checkpoint, makes the live snapshot's encoder the store's newest, and writes the result."""
    status = service.status()
    live = status.snapshot
    encoder = EncoderVersion(
        digest=live.encoder_digest,
        step=live.encoder_step,
        saved_at_seconds=live.encoder_saved_at_seconds,
        published_precision=live.precision if live.precision.startswith(PUBLISHED_PREFIX) else None,
    )
    set_current_encoder(store, encoder)
    totals = watcher.totals()
    live_step = live.encoder_step - start.encoder_step
    best = export_best(
        run,
        encoder=get_encoder(store, start.encoder_digest),
        reader=RealmKnowledgeAugEncoder.from_bert(config.encoder, seed=config.seed),
    )
    run.write_document("result", {**totals, **best, "live_snapshot": live.snapshot_id, "live_step": live_step})
    run.remove_checkpoints()


def _report(run: RunFolder, was_done: bool) -> PretrainReport:
    steps, refreshes, result = run.read_metrics(), run.read_refreshes(), run.result() or {}
    tenth = max(1, len(steps) // 10)
    staleness = [step["staleness_steps"] for step in steps]
    return PretrainReport(
        run_name=run.name,
        num_steps=len(steps),
        loss_first=_mean([step["loss"] for step in steps[:tenth]]),
        loss_last=_mean([step["loss"] for step in steps[-tenth:]]),
        retrieval_utility_last=_mean([step["retrieval_utility"] for step in steps[-tenth:]]),
        mean_staleness_steps=_mean(staleness),
        max_staleness_steps=max(staleness),
        num_refreshes_live=sum(refresh["status"] == "live" for refresh in refreshes),
        num_refreshes_failed=sum(refresh["status"] == "failed" for refresh in refreshes),
        num_swaps=result["num_swaps"],
        num_searches=result["num_searches"],
        num_failed_searches=result["num_failed_searches"],
        live_snapshot_id=result["live_snapshot"],
        live_staleness_steps=steps[-1]["step"] - result["live_step"],
        best_step=result["best_step"],
        best_retrieval_utility=result["best_retrieval_utility"],
        export=result["export"],
        recall=run.read_recall(),
        was_done=was_done,
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
