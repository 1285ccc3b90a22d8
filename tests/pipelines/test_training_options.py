"""Options of training that cannot be meant are refused before anything is loaded."""

from __future__ import annotations

import pytest

from pipelines.pretrain import PretrainConfig
from pipelines.warmup import WarmupConfig, run_warmup
from realm_core.errors import UsageError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulation_steps": 0}, "--accumulation-steps 0"),
        ({"accumulation_steps": 9, "batch_size": 8}, "--accumulation-steps 9 with --batch-size 8"),
        ({"checkpoint_interval_steps": 0}, "--checkpoint-interval-steps 0"),
    ],
)
def test_pretraining_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        PretrainConfig(store="s", encoder="e", **options)


@pytest.mark.parametrize("config", [PretrainConfig, WarmupConfig])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "--learning-rate 0; expected --learning-rate > 0"),
        ({"learning_rate": float("nan")}, "--learning-rate nan"),
        (
            {"num_warmup_steps": -1, "dropout": 1.0},
            "--num-warmup-steps -1, --dropout 1.0; expected .* 0 <= --dropout < 1",
        ),
    ],
)
def test_both_refuse(config, options, message):
    with pytest.raises(UsageError, match=message):
        config(store="s", encoder="e", **options)


def test_checkpoints_come_with_refreshes_unless_they_are_asked_for():
    assert PretrainConfig(store="s", encoder="e", refresh_interval_steps=7).checkpoints_every == 7
    assert PretrainConfig(store="s", encoder="e", checkpoint_interval_steps=3).checkpoints_every == 3


def test_a_warmup_refuses_an_empty_chunk():
    with pytest.raises(UsageError, match="--chunk-size 0"):
        WarmupConfig(store="s", encoder="e", chunk_size=0)


def test_a_warmup_refuses_a_step_of_more_blocks_than_there_are(synthetic_store):
    config = WarmupConfig(store=synthetic_store.store.url, encoder="e", batch_size=201, num_trainers=2)
    with pytest.raises(UsageError, match="--batch-size 201 on 2 ranks over 400 blocks"):
        run_warmup(config)
