from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from realm_core.errors import ArtifactCorruptError, ArtifactMissingError, TrainingError
from realm_core.training.random_state import random_state, restore_random_state
from realm_core.training.schedule import make_optimizer
from realm_core.training.state import TrainingProgress, load_training_state, save_training_state


class TiedNet(nn.Module):
    """An embedding that is also the output layer, dropout, and a buffer."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(13, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(width, 13)
        self.head.weight = self.embedding.weight
        self.register_buffer("num_calls", torch.zeros((), dtype=torch.int64))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        self.num_calls += 1
        return self.head(self.dropout(self.norm(self.embedding(ids))))


class Run:
    """A training run whose every step draws from all generators."""

    def __init__(self, seed: int, width: int = 8) -> None:
        torch.manual_seed(seed)
        random.seed(seed)
        self.rng = np.random.default_rng(seed)
        self.models: dict[str, nn.Module] = {"reader": TiedNet(width), "embedder": nn.Linear(width, 4)}
        self.optimizer = make_optimizer(self.models.values(), learning_rate=0.01)

    def train(self, num_steps: int) -> list[float]:
        return [self._step() for _ in range(num_steps)]

    def _step(self) -> float:
        ids = torch.from_numpy(self.rng.integers(13, size=6))
        logits = self.models["reader"](ids)
        scale = self.models["embedder"](torch.full((8,), random.random())).sum()
        loss = nn.functional.cross_entropy(logits * scale, ids)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def save(self, directory: Path) -> None:
        position = {"epoch": 1, "offset": 640}
        save_training_state(
            directory, models=self.models, optimizer=self.optimizer, step=3, data_position=position, rng=self.rng
        )

    def load(self, directory: Path) -> TrainingProgress:
        return load_training_state(directory, models=self.models, optimizer=self.optimizer, rng=self.rng)

    def tensors(self) -> dict[str, torch.Tensor]:
        named = {f"{m}.{n}": t.clone() for m, model in self.models.items() for n, t in model.state_dict().items()}
        states = self.optimizer.state_dict()["state"]
        return named | {f"{i}.{key}": t.clone() for i, state in states.items() for key, t in state.items()}


@pytest.fixture(autouse=True)
def _generators_as_before() -> Iterator[None]:
    before = random_state(np.random.default_rng(0))
    yield
    restore_random_state(before, np.random.default_rng(0))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    run = Run(seed=1)
    run.train(3)
    run.save(tmp_path)
    return tmp_path


def assert_equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert torch.equal(tensor, right[name]), name


def test_resumed_is_uninterrupted_bit_for_bit(saved: Path) -> None:
    uninterrupted = Run(seed=1)
    losses = uninterrupted.train(6)
    resumed = Run(seed=2)
    resumed.train(2)
    progress = resumed.load(saved)
    assert progress == TrainingProgress(step=3, data_position={"epoch": 1, "offset": 640})
    assert resumed.train(3) == losses[3:]
    assert_equal(resumed.tensors(), uninterrupted.tensors())


def test_a_fresh_optimizer_resumes_too(saved: Path) -> None:
    uninterrupted = Run(seed=1)
    losses = uninterrupted.train(6)
    resumed = Run(seed=2)
    resumed.load(saved)
    assert resumed.train(3) == losses[3:]
    assert_equal(resumed.tensors(), uninterrupted.tensors())


def test_saving_does_not_disturb_the_run(tmp_path: Path) -> None:
    undisturbed = Run(seed=1).train(6)
    run = Run(seed=1)
    first = run.train(3)
    run.save(tmp_path)
    assert first + run.train(3) == undisturbed


def test_tied_weights_are_written_once_and_stay_tied(saved: Path) -> None:
    resumed = Run(seed=2)
    resumed.load(saved)
    reader = resumed.models["reader"]
    assert isinstance(reader, TiedNet)
    assert reader.head.weight is reader.embedding.weight
    num_tied_bytes = 13 * 8 * 4
    assert (saved / "model-reader.safetensors").stat().st_size < 2 * num_tied_bytes + 600


def test_the_folder_holds_these_files_and_no_pickle(saved: Path) -> None:
    names = sorted(path.name for path in saved.iterdir())
    assert names == ["model-embedder.safetensors", "model-reader.safetensors", "optimizer.safetensors", "state.json"]
    assert json.loads((saved / "state.json").read_text())["step"] == 3


@pytest.mark.parametrize("name", ["model-reader.safetensors", "optimizer.safetensors", "state.json"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ArtifactMissingError, match=f"no {name}"):
        Run(seed=2).load(saved)


@pytest.mark.parametrize("name", ["model-reader.safetensors", "optimizer.safetensors"])
def test_a_flipped_byte_is_found_before_anything_changes(saved: Path, name: str) -> None:
    data = bytearray((saved / name).read_bytes())
    data[-1] ^= 1
    (saved / name).write_bytes(data)
    run = Run(seed=2)
    before = run.tensors()
    with pytest.raises(ArtifactCorruptError, match=name):
        run.load(saved)
    assert_equal(run.tensors(), before)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"step": 3}', '{"format": "realm-training-state-2", "step": 3}', '{"format": "another"}']
)
def test_a_state_that_is_none_is_corrupt(saved: Path, text: str) -> None:
    (saved / "state.json").write_text(text)
    with pytest.raises(ArtifactCorruptError, match=r"state\.json"):
        Run(seed=2).load(saved)


def test_another_step_than_was_saved_is_corrupt(saved: Path) -> None:
    text = (saved / "state.json").read_text()
    (saved / "state.json").write_text(text.replace('"step": 3', '"step": 4'))
    with pytest.raises(ArtifactCorruptError, match=r"state\.json: values of another digest"):
        Run(seed=2).load(saved)


def test_another_width_is_an_error_before_anything_changes(saved: Path) -> None:
    run = Run(seed=2, width=16)
    before = run.tensors()
    with pytest.raises(TrainingError, match=r"embedding.weight as float32\[13, 8\] instead of float32\[13, 16\]"):
        run.load(saved)
    assert_equal(run.tensors(), before)


def test_another_number_type_is_an_error_and_not_a_cast(saved: Path) -> None:
    run = Run(seed=2)
    run.models["embedder"].double()
    with pytest.raises(TrainingError, match=r"weight as float32\[4, 8\] instead of float64\[4, 8\]"):
        run.load(saved)


def test_a_model_with_one_tensor_more_is_an_error(saved: Path) -> None:
    run = Run(seed=2)
    run.models["reader"].extra = nn.Parameter(torch.zeros(2))
    with pytest.raises(TrainingError, match="no extra"):
        run.load(saved)


def test_other_models_are_an_error(saved: Path) -> None:
    run = Run(seed=2)
    run.models["critic"] = run.models.pop("embedder")
    with pytest.raises(TrainingError, match=r"model-embedder\.safetensors"):
        run.load(saved)


def test_another_optimizer_is_an_error(saved: Path) -> None:
    run = Run(seed=2)
    run.optimizer = torch.optim.AdamW(run.models["reader"].parameters())
    with pytest.raises(TrainingError, match=r"parameter groups of \[2, 4\]; expected groups of \[4\]"):
        run.load(saved)


def test_an_optimizer_of_another_order_is_an_error(saved: Path) -> None:
    run = Run(seed=2)
    run.optimizer = make_optimizer(list(run.models.values())[::-1], learning_rate=0.01)
    with pytest.raises(TrainingError, match=r"float32\[13, 8\]; expected float32\[4, 8\]"):
        run.load(saved)


def test_another_number_of_gpus_is_said(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    state = random_state(rng)
    state["cuda"] = ["00"] * (torch.cuda.device_count() + 1)
    with caplog.at_level(logging.WARNING):
        restore_random_state(state, rng)
    assert "Dropout will differ" in caplog.text


def test_generators_survive_json() -> None:
    def draw(rng: np.random.Generator) -> list[float]:
        return [random.gauss(), float(rng.normal()), torch.rand(()).item(), random.random()]

    rng = np.random.default_rng(3)
    random.gauss()
    state = json.loads(json.dumps(random_state(rng)))
    first = draw(rng)
    assert draw(rng) != first
    restore_random_state(state, rng)
    assert draw(rng) == first
