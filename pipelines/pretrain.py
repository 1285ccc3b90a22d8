"""`realm pretrain`: REALM pre-training over an index that is refreshed meanwhile."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.placement import require_places
from cluster.pretraining import PretrainPlan, pretrain_on_workers
from cluster.refresh import IndexPlan
from cluster.refresher import RefresherClient, RefresherConfig
from cluster.resources import ResourcePlan, plan_resources
from cluster.retrieval_service import RetrievalClient, service_left_as_found, start_service
from cluster.session import cluster_capacity, ray_session
from pipelines.configs.pretrain import PretrainConfig
from pipelines.display import Display, say
from pipelines.pretrain_checks import check_inputs
from pipelines.pretrain_plan import PretrainPlanReport
from pipelines.pretrain_report import PretrainReport, pretrain_page, pretrain_report
from pipelines.pretrain_watcher import PretrainWatcher
from pipelines.report import require_writable_report, write_report
from pipelines.run_start import say_start
from pipelines.tensorboard import TensorBoardLog
from pipelines.watching import watch_in_background
from realm_core.engines.loading import StoreEngineLoader
from realm_core.errors import TrainingError
from realm_core.evaluation.datasets import Question, read_questions
from realm_core.index.specs import IndexSpec
from realm_core.modeling.checkpoints import load_tokenizer, tokenizer_digest
from realm_core.modeling.knowledge_aug_encoder import RealmKnowledgeAugEncoder
from realm_core.modeling.weights import resolve_directory, weights_digest
from realm_core.retrieval.evidence import EvidenceRetriever
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


def run_pretrain(config: PretrainConfig) -> PretrainReport | PretrainPlanReport:
    """`pretrain`, or with `--dry-run` only the plan, after the same checks and on the same cluster."""
    return plan_pretraining(config) if config.dry_run else pretrain(config)


def plan_pretraining(config: PretrainConfig) -> PretrainPlanReport:
    """Checks everything that can be checked beforehand, and whether all processes find a place; starts nothing.

    Raises what `pretrain` would raise for the same reasons, and `UsageError` where there is no place.
    """
    if config.report:
        require_writable_report(Path(config.report))
    store = Store(config.store)
    if config.questions:
        read_questions(config.questions)
    start = load_snapshot(store)
    corpus = load_corpus(store, start.corpus_digest)
    _check(config, store, corpus, start)
    with ray_session(config.address):
        num_cpus, num_gpus = cluster_capacity()
        resources = _resources(config)
        require_places(resources)
    return PretrainPlanReport(
        config=config, resources=resources, corpus=corpus, start=start, num_cpus=num_cpus, num_gpus=num_gpus
    )


def pretrain(config: PretrainConfig) -> PretrainReport:
    """Trains to the last step and waits for the last refresh; goes on from the last checkpoint of the same run.

    Raises:
        StoreError: no published snapshot.
        EncoderError: encoder, snapshot and corpus do not go together, see `check_inputs`.
        UsageError: more candidates than blocks.
        TrainingError: no salient spans, a loss that is not finite, or ranks that die again and again.
    """
    if config.report:
        require_writable_report(Path(config.report))
    store = Store(config.store)
    store.require_initialized()
    questions = read_questions(config.questions) if config.questions else []
    with writer_lock(store, "realm pretrain"):
        run, start = _open_run(config, store)
        was_done = run.result() is not None
        if not was_done:
            corpus = load_corpus(store, start.corpus_digest)
            _check(config, store, corpus, start)
            _train(config, store, run, start, questions)
        report = pretrain_report(run, was_done=was_done)
        if config.report:
            write_report(pretrain_page(run, report), Path(config.report))
            say(f"report written to {config.report}")
        return report


def _open_run(config: PretrainConfig, store: Store) -> tuple[RunFolder, SnapshotManifest]:
    """The run of this configuration and the snapshot that it started on.

    The live snapshot moves on as the run refreshes it, so the store remembers where the run began. A finished run
    whose snapshot is live is found again; training further from it takes another configuration. From another live
    snapshot, as after a new warm-up, the same configuration is another run, with a number behind its name.
    """
    what_matters = [
        config.num_steps, config.refresh_interval_steps, config.batch_size, config.num_candidates,
        config.query_length_tokens, config.learning_rate, config.num_warmup_steps, config.num_trainers,
        config.num_shards, config.seed, config.dropout, config.checkpoints_every, config.masking, config.null_document,
        config.separate_embedders,
    ]  # fmt: skip
    live = load_snapshot(store)
    directory = resolve_directory(config.encoder)
    reader = (tokenizer_digest(load_tokenizer(directory)), weights_digest(directory))
    name = "pretrain-" + digest_of(live.corpus_digest, *reader, what_matters)[:12]
    for number in count(1):
        run = RunFolder(store, name if number == 1 else f"{name}-{number}")
        begun, result = run.read_document("start"), run.result()
        if begun is None:
            return run, live
        if result is None:
            return run, load_snapshot(store, begun["snapshot"])
        if result["live_snapshot"] == live.snapshot_id:
            return run, live
        if begun["snapshot"] == live.snapshot_id:
            say(
                f"{run.name} is done, but its snapshot {result['live_snapshot']} is not live: {live.snapshot_id} is, "
                f"where it began. `realm snapshots publish {result['live_snapshot']}` makes it live"
            )
            return run, live
    raise AssertionError("there is always a next number")


def _train(
    config: PretrainConfig, store: Store, run: RunFolder, start: SnapshotManifest, questions: list[Question]
) -> None:
    plan = pretrain_plan(config, store, run, start)
    say_start(
        run, plan.schedule, f"{config.num_trainers} ranks x {config.batch_size} sentences, from {start.snapshot_id}"
    )
    with (
        ray_session(config.address),
        service_left_as_found(),
        tempfile.TemporaryDirectory() as folder,
        Display() as display,
    ):
        resources = _resources(config)
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
            tensorboard=TensorBoardLog(Path(config.tensorboard), run) if config.tensorboard else None,
        )
        with watch_in_background(watcher.look):
            if run.read_document("start") is None:  # not before: what was refused has not begun
                run.write_document("start", {"snapshot": start.snapshot_id, "options": asdict(config)})
            pretrain_on_workers(plan, resources=resources, refresher=refresher, folder=Path(folder))
            _wait_for_last_refresh(refresher)
        watcher.close()
        _finish(config, store, run, start, service, watcher)
        refresher.stop()


def _check(config: PretrainConfig, store: Store, corpus: CorpusManifest, start: SnapshotManifest) -> None:
    check_inputs(
        store,
        corpus,
        start,
        reader=config.encoder,
        featurizer=_featurizer(config, corpus),
        masking=config.masking,
    )


def _resources(config: PretrainConfig) -> ResourcePlan:
    num_cpus, num_gpus = cluster_capacity()
    return plan_resources(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        embedding_workers=config.num_embedding_workers,
        trainer_workers=config.num_trainers,
        precision=config.precision,
        device=config.device,
    )


def refresher_config(
    config: PretrainConfig, store: Store, run: RunFolder, start: SnapshotManifest, resources: ResourcePlan
) -> RefresherConfig:
    """What the run's refresher keeps fresh."""
    index = IndexPlan(
        num_shards=config.num_shards, spec=IndexSpec(**start.index_spec), target_recall=config.target_recall
    )
    embedding = resources.embedding
    return RefresherConfig(
        store_url=store.url,
        corpus_digest=start.corpus_digest,
        run_name=run.name,
        index=index,
        plan=resources,
        loader=StoreEngineLoader(device=embedding.device, threads=embedding.threads),
        num_kept_snapshots=config.num_kept_snapshots,
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
        separate_embedders=config.separate_embedders,
        reader_checkpoint=_for_other_processes(config.encoder),
        featurizer=_featurizer(config, corpus),
        masking=config.masking,
        schedule=ScheduleConfig(
            num_steps=config.num_steps, learning_rate=config.learning_rate, num_warmup_steps=config.num_warmup_steps
        ),
        batch_size=config.batch_size,
        seed=config.seed,
        dropout=config.dropout,
        refresh_interval_steps=config.refresh_interval_steps,
        max_staleness_steps=config.max_staleness_steps,
        checkpoint_interval_steps=config.checkpoints_every,
        accumulation_steps=config.accumulation_steps,
        recompute_layers=config.gradient_checkpointing,
    )


def _for_other_processes(encoder: str) -> str:
    """Ranks work in folders of their own: a directory's path must not depend on where this command runs."""
    return str(Path(encoder).absolute()) if Path(encoder).is_dir() else encoder


def _featurizer(config: PretrainConfig, corpus: CorpusManifest) -> FeaturizerConfig:
    return FeaturizerConfig(
        query_length_tokens=config.query_length_tokens,
        block_length_tokens=corpus.max_block_tokens,
        num_candidates=config.num_candidates,
        has_null_document=config.null_document,
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
    start_encoder = get_encoder(store, start.encoder_digest)
    best = export_best(
        run,
        encoder=start_encoder.separated() if config.separate_embedders else start_encoder,
        reader=RealmKnowledgeAugEncoder.from_bert(config.encoder, seed=config.seed),
    )
    run.write_document("result", {**totals, **best, "live_snapshot": live.snapshot_id, "live_step": live_step})
    run.remove_checkpoints()
