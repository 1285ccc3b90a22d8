import pytest
import torch
from torch.nn import functional

from realm_core.engines.linears import OnednnLinear, PlainLinear, make_linear
from realm_core.engines.peaks import measure_int8_peak, measure_peak

torch.manual_seed(5)
WEIGHT, BIAS = torch.randn(48, 32), torch.randn(48)
VALUES, RESIDUAL = torch.randn(64, 32), torch.randn(64, 48)
KINDS = [OnednnLinear, lambda weight, bias, rows, activation: PlainLinear(weight, bias, activation=activation)]

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN: only the plain form is used"
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", torch.tanh])
def test_equals_pytorchs_own_operations(kind, activation):
    expected = functional.linear(VALUES, WEIGHT, BIAS)
    functions = {
        "gelu": functional.gelu,
        "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
        "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "relu": functional.relu,
        "silu": functional.silu,
        torch.tanh: torch.tanh,
    }
    with torch.inference_mode():
        linear = kind(WEIGHT, BIAS, rows=64, activation=activation)
        torch.testing.assert_close(linear(VALUES), expected, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(linear.activated(VALUES), functions[activation](expected), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(linear.plus(VALUES, RESIDUAL), expected + RESIDUAL, rtol=1e-5, atol=1e-4)


def test_onednn_is_taken_on_a_cpu_in_fp32_and_its_weights_are_a_copy():
    weight = WEIGHT.clone()
    with torch.inference_mode():
        linear = make_linear(weight, BIAS, rows=64, activation="gelu")
        assert isinstance(linear, OnednnLinear)
        before = linear(VALUES)
        weight.zero_()
        assert torch.equal(linear(VALUES), before)


def test_other_types_take_the_plain_form():
    assert isinstance(make_linear(WEIGHT.double(), BIAS.double(), rows=64, activation="gelu"), PlainLinear)


def test_peaks_are_speeds():
    assert measure_peak("cpu", torch.float32) > 1e9
    assert measure_int8_peak() > 1e9
