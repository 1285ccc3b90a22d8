"""`realm warmup`: the inverse cloze task, before pre-training."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.resources import plan_resources
from cluster.session import cluster_capacity, ray_session
from cluster.warmup import WarmupPlan, warm_up_on_workers
from pipelines.configs.warmup import WarmupConfig
from pipelines.display import Display, say
from pipelines.encoders import store_encoder
from pipelines.run_start import say_start
from pipelines.telemetry import StepRate
from pipelines.watching import watch_in_background
from realm_core.errors import UsageError
from realm_core.storage.block_store import load_corpus
from realm_core.storage.digests import digest_of
from realm_core.storage.encoder_pointer import EncoderVersion, set_current_encoder
from realm_core.storage.encoder_store import has_encoder
from realm_core.storage.files import Store
from realm_core.storage.lock import writer_lock
from realm_core.training.run_folder import RunFolder
from realm_core.training.schedule import ScheduleConfig

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmupReport:
    """What the warm-up came to; accuracies are over the last tenth of the steps."""

    run_name: str
    encoder: EncoderVersion
    num_steps: int
    loss: float
    """Mean over the last tenth of the steps, as the accuracies are."""
    removed_accuracy: float
    kept_accuracy: float
    was_done: bool

    def rows(self) -> list[tuple[str, object]]:
        """For the table at the end."""
        return [
            ("run", self.run_name + (" (was done already)" if self.was_done else "")),
            ("steps", self.num_steps),
            ("loss, last tenth", f"{self.loss:.3f}"),
            ("accuracy, last tenth, sentence removed from its block", f"{self.removed_accuracy:.3f}"),
            ("accuracy, last tenth, sentence left in its block", f"{self.kept_accuracy:.3f}"),
            ("encoder", self.encoder.digest[:12]),
        ]


def run_warmup(config: WarmupConfig) -> WarmupReport:
    """Warms up, or goes on from the last checkpoint of the same configuration; the encoder becomes the store's newest.

    Raises:
        EncoderError: the start encoder cannot be loaded, or has another vocabulary than the corpus.
        TrainingError: the loss is not finite, or ranks die again and again.
        UsageError: batches of more blocks than the corpus has.
    """
    store = Store(config.store)
    corpus = load_corpus(store)
    _check(config, corpus.num_blocks)
    with writer_lock(store, "realm warmup"):
        start = store_encoder(store, config.encoder, corpus)
        run = RunFolder(store, _run_name(config, corpus.digest, start.digest))
        was_done = _is_done(store, run)
        if not was_done:
            _train(config, store, run, corpus.digest, start.digest)
        run.remove_checkpoints()
        encoder = _result(run)
        set_current_encoder(store, encoder)
    return _report(config, run, encoder, was_done)


def _check(config: WarmupConfig, num_blocks: int) -> None:
    """A block that comes twice in a batch would be its own negative."""
    wanted = config.batch_size * config.num_trainers
    if wanted > num_blocks:
        raise UsageError(
            where="realm warmup",
            found=f"--batch-size {config.batch_size} on {config.num_trainers} ranks over {num_blocks} blocks",
            expected=f"at most {num_blocks} blocks in a step",
            action="Lower --batch-size, or ingest a larger corpus.",
        )


def _run_name(config: WarmupConfig, corpus_digest: str, encoder_digest: str) -> str:
    what_matters = [
        config.num_steps, config.batch_size, config.learning_rate, config.num_warmup_steps, config.dropout,
        config.separate_embedders,
    ]  # fmt: skip
    return "warmup-" + digest_of(corpus_digest, encoder_digest, config.num_trainers, config.seed, what_matters)[:12]


def _is_done(store: Store, run: RunFolder) -> bool:
    result = run.result()
    return result is not None and has_encoder(store, result["encoder"])


def _train(config: WarmupConfig, store: Store, run: RunFolder, corpus_digest: str, encoder_digest: str) -> None:
    plan = WarmupPlan(
        store_url=store.url,
        run_name=run.name,
        corpus_digest=corpus_digest,
        start_encoder_digest=encoder_digest,
        separate_embedders=config.separate_embedders,
        schedule=ScheduleConfig(
            num_steps=config.num_steps, learning_rate=config.learning_rate, num_warmup_steps=config.num_warmup_steps
        ),
        batch_size=config.batch_size,
        chunk_size=config.chunk_size,
        seed=config.seed,
        dropout=config.dropout,
        checkpoint_interval_steps=config.checkpoint_interval_steps,
    )
    say_start(run, plan.schedule, f"{config.num_trainers} ranks x {config.batch_size} blocks")
    with ray_session(config.address), Display() as display, tempfile.TemporaryDirectory() as folder:
        num_cpus, num_gpus = cluster_capacity()
        resources = plan_resources(
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            embedding_workers=0,
            trainer_workers=config.num_trainers,
            precision=config.precision,
            device=config.device,
        )
        bar, rate = display.task("warmup", total=config.num_steps, unit="steps"), StepRate()
        said: set[str] = set()

        def show() -> None:
            lines = run.read_metrics()
            for problem in {line["resume_problem"] for line in lines if "resume_problem" in line} - said:
                said.add(problem)
                say(f"  warmup  {problem}")
            if lines:
                bar.update(lines[-1]["step"], note=f"loss {lines[-1]['loss']:.3f}", rate=rate.update(lines))

        with watch_in_background(show):
            warm_up_on_workers(plan, resources=resources, folder=Path(folder))


def _result(run: RunFolder) -> EncoderVersion:
    result = run.result() or {}
    return EncoderVersion(digest=result["encoder"], step=0, saved_at_seconds=result["saved_at_seconds"])


def _report(config: WarmupConfig, run: RunFolder, encoder: EncoderVersion, was_done: bool) -> WarmupReport:
    lines = run.read_metrics()
    last = lines[-max(1, len(lines) // 10) :]
    return WarmupReport(
        run_name=run.name,
        encoder=encoder,
        num_steps=config.num_steps,
        loss=_mean(last, "loss"),
        removed_accuracy=_mean(last, "removed_accuracy"),
        kept_accuracy=_mean(last, "kept_accuracy"),
        was_done=was_done,
    )


def _mean(lines: Sequence[dict[str, Any]], name: str) -> float:
    values = [line[name] for line in lines if line[name] is not None]
    return sum(values) / len(values) if values else float("nan")
