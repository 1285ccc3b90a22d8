"""Training that is killed from outside takes the steps that it would have taken, to the last bit of each loss."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from contextlib import closing

import numpy as np
import psutil
import pytest
import torch
from support.processes import kill, trainer_ranks
from support.waiting import wait_until
from support.whole_snapshots import flip_byte

from pipelines.configs.pretrain import PretrainConfig
from pipelines.embed import EmbedConfig, run_embed
from pipelines.index import IndexConfig, run_index
from pipelines.ingest import IngestConfig, run_ingest
from pipelines.pretrain import pretrain
from pipelines.warmup import WarmupConfig, run_warmup
from realm_core import RealmEmbedder, RealmKnowledgeAugEncoder, RealmScorer
from realm_core.engines.torch_engine import TorchEngine
from realm_core.modeling.checkpoints import load_encoder
from realm_core.retrieval.query_encoder import QueryEncoder
from realm_core.retrieval.snapshot_search import LocalSnapshotSearch
from realm_core.storage.block_store import BlockRecords, load_corpus
from realm_core.storage.encoder_store import get_encoder
from realm_core.storage.files import Store
from realm_core.storage.snapshots import load_snapshot
from realm_core.training.run_folder import RunFolder

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Ray Data, which Ray Train imports
]

SAME = ("step", "loss", "gradient_norm")
TIMEOUT_SECONDS = 600.0


@pytest.fixture(scope="module")
def prepared(ray_cluster, tmp_path_factory, tiny_corpus, tiny_bert):
    """A store with a snapshot of an encoder that was not trained."""
    store = tmp_path_factory.mktemp("resume") / "store"
    run_ingest(IngestConfig(store=str(store), source=str(tiny_corpus), encoder=str(tiny_bert), max_block_tokens=128))
    run_embed(EmbedConfig(store=str(store), encoder=str(tiny_bert)))
    run_index(IndexConfig(store=str(store)))
    return store


@pytest.fixture
def alone(prepared, tmp_path):
    """For the run that is left alone."""
    return shutil.copytree(prepared, tmp_path / "alone")


@pytest.fixture
def killed(prepared, tmp_path):
    """For the same run, which is not."""
    return shutil.copytree(prepared, tmp_path / "killed")


def warmup_config(store, tiny_bert):
    return WarmupConfig(
        store=str(store), encoder=str(tiny_bert), num_steps=60, batch_size=6, chunk_size=4, num_warmup_steps=2,
        checkpoint_interval_steps=7, num_trainers=2, precision="fp32",
    )  # fmt: skip


def pretrain_config(store, tiny_bert):
    """One snapshot for all steps: the only refresh is that at the end. Two embedders, the harder case."""
    return PretrainConfig(
        store=str(store), encoder=str(tiny_bert), num_steps=24, refresh_interval_steps=1000, batch_size=3,
        checkpoint_interval_steps=5, accumulation_steps=2, gradient_checkpointing=True, num_candidates=3,
        query_length_tokens=64, num_warmup_steps=1, num_trainers=2, precision="fp32", separate_embedders=True,
    )  # fmt: skip


def the_run(store):
    [folder] = (store / "runs").iterdir()
    return RunFolder(Store(str(store)), folder.name)


def curve(store):
    return [[line[name] for name in SAME] for line in the_run(store).read_metrics()]


def newest_checkpoint(store):
    steps = the_run(store).checkpoint_steps() if (store / "runs").is_dir() else []
    return max(steps, default=0)


def kill_a_rank(store, driver_pid):
    """Kills the last rank (-9) once there is a checkpoint; returns that one's step."""
    wait_until(lambda: newest_checkpoint(store) > 0, "a checkpoint", seconds=TIMEOUT_SECONDS)
    step = newest_checkpoint(store)
    assert kill(trainer_ranks(driver_pid)[-1])
    return step


def test_a_killed_rank_a_killed_driver_and_a_damaged_checkpoint_change_no_step_of_the_warmup(
    alone, killed, tiny_bert, capsys
):
    run_warmup(warmup_config(alone, tiny_bert))
    config = warmup_config(killed, tiny_bert)
    script = f"from pipelines.warmup import WarmupConfig, run_warmup; run_warmup({config!r})"
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        step = kill_a_rank(killed, driver.pid)
        wait_until(lambda: newest_checkpoint(killed) > step, "a later checkpoint", seconds=TIMEOUT_SECONDS)
        ranks = trainer_ranks(driver.pid)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    wait_until(lambda: not any(map(psutil.pid_exists, ranks)), "its ranks end", seconds=TIMEOUT_SECONDS)
    run = the_run(killed)
    assert run.result() is None
    flip_byte(run.local_checkpoint(newest_checkpoint(killed)) / "model-embedder.safetensors", offset=-1)
    run_warmup(config)  # goes on from the checkpoint before
    assert "CANNOT BE READ, an earlier one was taken" in capsys.readouterr().err
    assert len(curve(alone)) == config.num_steps
    assert curve(killed) == curve(alone)
    assert run.result()["encoder"] == the_run(alone).result()["encoder"]


def test_a_killed_rank_and_a_killed_driver_change_no_step_of_pretraining_with_two_embedders(alone, killed, tiny_bert):
    report = pretrain(pretrain_config(alone, tiny_bert))
    config = pretrain_config(killed, tiny_bert)
    script = f"from pipelines.pretrain import PretrainConfig, pretrain; pretrain({config!r})"
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        step = kill_a_rank(killed, driver.pid)
        wait_until(lambda: newest_checkpoint(killed) > step, "a later checkpoint", seconds=TIMEOUT_SECONDS)
        ranks = trainer_ranks(driver.pid)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert the_run(killed).result() is None
    wait_until(lambda: not any(map(psutil.pid_exists, ranks)), "its ranks end", seconds=TIMEOUT_SECONDS)
    again = pretrain(config)
    assert len(curve(alone)) == report.num_steps == config.num_steps
    assert curve(killed) == curve(alone)
    assert_best(report, the_run(alone).read_metrics())
    assert (again.best_step, again.best_retrieval_utility) == (report.best_step, report.best_retrieval_utility)
    assert_exported(killed, again)
    assert_two_embedders(killed, report)


def assert_exported(folder, report):
    """What was exported loads, and a corpus can be embedded with it."""
    assert ("exported to", report.export) in report.rows()
    for kind, name in ((RealmEmbedder, "embedder"), (RealmScorer, "scorer"), (RealmKnowledgeAugEncoder, "encoder")):
        assert kind.from_pretrained(f"{report.export}/{name}").config.hidden_size == 32
    run_embed(EmbedConfig(store=str(folder), encoder=f"{report.export}/embedder"))


def assert_two_embedders(folder, report):
    """Both were trained, each its own way; they are exported, live, and searched with."""
    store = Store(str(folder))
    exported = load_encoder(f"{report.export}/scorer")
    assert not torch.equal(exported.embedder.cls.dense.weight, exported.query_embedder.cls.dense.weight)
    alone = load_encoder(f"{report.export}/query_embedder").embedder
    assert torch.equal(alone.cls.dense.weight, exported.query_embedder.cls.dense.weight)
    live = get_encoder(store, load_snapshot(store).encoder_digest)
    assert live.query_embedder is not None
    with closing(LocalSnapshotSearch(store)) as search:
        found = QueryEncoder(store, search).search_text(["the bridge"], 2)
    query = live.tokenizer.encode("the bridge", add_special_tokens=False).ids
    blocks = [BlockRecords(store, load_corpus(store)).token_ids(int(hit)) for hit in found.block_ids_BK[0]]
    markers = {"cls_token_id": live.token_id("[CLS]"), "sep_token_id": live.token_id("[SEP]")}
    query_1D = TorchEngine(live.query_embedder, **markers).encode_queries([query])
    blocks_KD = TorchEngine(live.embedder, **markers).encode(*zip(*blocks, strict=True))
    np.testing.assert_allclose(found.relevances_BK[0], blocks_KD @ query_1D[0], rtol=1e-4, atol=1e-4)


def assert_best(report, lines):
    """Of the whole intervals of five steps, by hand."""
    utilities = {}
    for stop in (5, 10, 15, 20):
        interval = lines[stop - 5 : stop]
        utility = sum(line["retrieval_utility"] * line["masked_tokens"] for line in interval)
        utilities[stop] = utility / sum(line["masked_tokens"] for line in interval)
    assert report.best_step == max(utilities, key=utilities.get)
    assert report.best_retrieval_utility == pytest.approx(utilities[report.best_step])
