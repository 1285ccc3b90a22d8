import pytest
import torch

from realm_core.engines.row_attention import OneRowAtATime, RowBounds, VariableLength
from realm_core.modeling.attention import eager_attention

torch.manual_seed(3)
LENGTHS = (5, 1, 12)
NUM_TOKENS = 20  # the last two are dummies
QUERY, KEY, VALUE = torch.randn(3, NUM_TOKENS, 2, 16).unbind()


def bounds(device="cpu"):
    return RowBounds(LENGTHS, torch.tensor([0, 5, 6, 18], dtype=torch.int32, device=device))


def row_by_row(queries_of_row):
    contexts, start = [], 0
    for length in LENGTHS:
        own = slice(start, start + length)
        query, key, value = (x.transpose(0, 1)[None] for x in (queries_of_row(start, length), KEY[own], VALUE[own]))
        contexts.append(eager_attention(query, key, value, None, 0.0)[0][0].transpose(0, 1))
        start += length
    return torch.cat(contexts)


def poisoned(values):
    """NaN where the dummies are: nothing of them may reach a row."""
    return torch.cat([values[:18], torch.full_like(values[18:], torch.nan)])


def test_each_token_attends_to_its_own_row():
    context = OneRowAtATime().all_tokens(poisoned(QUERY), poisoned(KEY), poisoned(VALUE), bounds())
    expected = row_by_row(lambda start, length: QUERY[start : start + length])
    torch.testing.assert_close(context[:18], expected, rtol=1e-5, atol=1e-5)


def test_the_first_tokens_attend_to_all_of_their_row():
    firsts = QUERY[[0, 5, 6]]
    context = OneRowAtATime().first_tokens(firsts, poisoned(KEY), poisoned(VALUE), bounds())
    torch.testing.assert_close(context, row_by_row(lambda start, _: QUERY[start : start + 1]), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlashAttention for rows of all lengths needs a CUDA GPU")
def test_flash_attention_equals_one_row_at_a_time():
    query, key, value = (poisoned(x).cuda().bfloat16() for x in (QUERY, KEY, VALUE))
    one, flash = OneRowAtATime(), VariableLength()
    expected = one.all_tokens(query, key, value, bounds("cuda"))[:18]
    torch.testing.assert_close(flash.all_tokens(query, key, value, bounds("cuda"))[:18], expected, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(
        flash.first_tokens(query[[0, 5, 6]], key, value, bounds("cuda")),
        one.first_tokens(query[[0, 5, 6]], key, value, bounds("cuda")),
        rtol=2e-2,
        atol=2e-2,
    )
