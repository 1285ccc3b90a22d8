import pytest
import torch
from support.tiny_encoders import realm_config

from realm_core.engines import packed_transformer
from realm_core.engines.packed_transformer import CLS_ROWS, after_attention, in_chunks
from realm_core.modeling.layers import RealmLayer, activation_function

torch.manual_seed(9)
LAYER = RealmLayer(realm_config(), 0).eval()
CONTEXT, ROWS = torch.randn(2, 24, 16).unbind()


def expected(layer):
    attended = layer.attention.output(CONTEXT, ROWS)
    return layer.output(layer.intermediate(attended), attended)


def test_the_function_that_gpus_compile_equals_the_layers_own_modules():
    output, last = LAYER.attention.output, LAYER.output
    parts = (output.dense, output.LayerNorm, LAYER.intermediate.dense, last.dense, last.LayerNorm)
    parameters = [parameter for part in parts for parameter in (part.weight, part.bias)]
    activation = activation_function(realm_config().hidden_act)
    with torch.inference_mode():
        found = after_attention(CONTEXT, ROWS, parameters, activation, last.LayerNorm.eps)
        torch.testing.assert_close(found, expected(LAYER), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only GPUs compile it")
def test_the_compiled_function_equals_the_layers_own_modules():
    shape = packed_transformer.LayerShape(realm_config(), torch.device("cuda"), torch.float32, 24)
    with torch.inference_mode():
        found = packed_transformer._FusedAfterAttention(LAYER, shape)(CONTEXT.cuda(), ROWS.cuda()).cpu()
        torch.testing.assert_close(found, expected(LAYER), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("num_rows", [1, CLS_ROWS, CLS_ROWS + 1])
def test_chunks_have_one_shape_and_dummies_leave_nothing_behind(num_rows):
    shapes = []

    def double(first, second):
        shapes.append((first.shape, second.shape))
        return first + second

    values = torch.randn(num_rows, 3)
    assert torch.equal(in_chunks(double, values, values), 2 * values)
    assert set(shapes) == {((CLS_ROWS, 3), (CLS_ROWS, 3))}
