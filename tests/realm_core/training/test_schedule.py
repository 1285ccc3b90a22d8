from __future__ import annotations

import pytest
import torch
from torch import nn

from realm_core.errors import UsageError
from realm_core.training.schedule import ScheduleConfig, learning_rate_at, make_optimizer, parameter_groups


@pytest.mark.parametrize(
    ("num_steps", "warmup_steps"), [(50, 100), (1000, 100), (2000, 200), (200_000, 10_000), (100_009, 10_000)]
)
def test_the_references_default_warm_up(num_steps: int, warmup_steps: int) -> None:
    assert ScheduleConfig(num_steps=num_steps).warmup_steps == warmup_steps


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.0), (1, 0.25), (3, 0.75), (4, 0.8), (10, 0.5), (19, 0.05), (20, 0.0), (99, 0.0)]
)
def test_linear_rise_then_linear_fall_counted_from_the_start(step: int, rate: float) -> None:
    config = ScheduleConfig(num_steps=20, learning_rate=1.0, num_warmup_steps=4)
    assert learning_rate_at(step, config) == pytest.approx(rate)


def test_no_warm_up_starts_at_the_top() -> None:
    assert learning_rate_at(0, ScheduleConfig(num_steps=10, learning_rate=2.0, num_warmup_steps=0)) == 2.0


def test_a_wrong_schedule_names_every_problem() -> None:
    with pytest.raises(UsageError, match=r"num_steps=0, learning_rate=-1\.0, num_warmup_steps=-2;"):
        ScheduleConfig(num_steps=0, learning_rate=-1.0, num_warmup_steps=-2)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.norm = nn.LayerNorm(3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embedding.weight
        self.output_bias = nn.Parameter(torch.zeros(5))
        self.head.bias = self.output_bias
        self.frozen = nn.Linear(3, 3).requires_grad_(False)


def test_biases_and_norms_are_not_decayed_and_shared_or_frozen_parameters_come_once_or_never() -> None:
    net = Net()
    decayed, undecayed = parameter_groups([net, net.head], weight_decay=0.01)
    assert [id(p) for p in decayed["params"]] == [id(net.embedding.weight)]
    assert {id(p) for p in undecayed["params"]} == {id(net.norm.weight), id(net.norm.bias), id(net.output_bias)}
    assert len(undecayed["params"]) == 3
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.01, 0.0)


def test_without_gradient_only_decayed_weights_shrink() -> None:
    net = Net()
    nn.init.ones_(net.embedding.weight)
    optimizer = make_optimizer([net], learning_rate=0.5, weight_decay=0.1)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(net.embedding.weight, torch.full((5, 3), 0.95))
    assert torch.equal(net.norm.weight, torch.ones(3))
