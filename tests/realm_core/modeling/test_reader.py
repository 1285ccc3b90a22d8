from __future__ import annotations

import pytest
import torch
from support.tiny_encoders import realm_config

from realm_core.modeling.reader import RealmReader


def small_reader(**overrides):
    torch.manual_seed(3)
    sizes = {"reader_beam_size": 3, "max_span_width": 4, "span_hidden_size": 6}
    return RealmReader(realm_config(**{**sizes, **overrides})).eval()


def question(seed, num_read=3, num_retrieved=5, length=14):
    """Inputs of one question: 5 blocks retrieved, 3 of them read."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(length) < torch.randint(9, length + 1, (num_retrieved, 1), generator=generator)).long()
    evidence = mask.bool() & (torch.arange(length) >= 5)
    starts = torch.full((num_retrieved, 2), -1)
    starts[1, 0], starts[3, 0] = 6, 5
    return {
        "input_ids": torch.randint(5, 40, (num_read, length), generator=generator),
        "attention_mask": mask[:num_read],
        "token_type_ids": evidence.long()[:num_read],
        "relevance_score": torch.randn(num_retrieved, generator=generator),
        "block_mask": evidence,
        "start_positions": starts,
        "end_positions": torch.where(starts < 0, starts, starts + 1),
        "has_answers": (starts >= 0).any(1),
    }


def test_a_batch_gives_what_each_question_gives_by_itself():
    reader = small_reader()
    questions = [question(seed) for seed in (1, 2, 3, 4)]
    one_by_one = [reader(**inputs) for inputs in questions]
    stacked = {name: torch.stack([inputs[name] for inputs in questions]) for name in questions[0]}
    flat = {name: stacked[name].flatten(0, 1) for name in ("input_ids", "attention_mask", "token_type_ids")}
    for batch in (reader(**stacked), reader(**{**stacked, **flat})):
        for i, alone in enumerate(one_by_one):
            for name in ("block_idx", "candidate", "start_pos", "end_pos", "retriever_correct", "reader_correct"):
                assert torch.equal(batch[name][i], alone[name]), name
            for name in ("retriever_loss", "reader_loss"):
                torch.testing.assert_close(batch[name][i], alone[name], rtol=1e-5, atol=1e-6)
        mean = torch.stack([alone.loss for alone in one_by_one]).mean()
        torch.testing.assert_close(batch.loss, mean, rtol=1e-5, atol=1e-6)


def test_the_best_span_lies_in_the_evidence_and_is_no_wider_than_allowed():
    reader = small_reader()
    for seed in range(20):
        inputs = question(seed)
        output = reader(**inputs)
        start, end = output.start_pos.item(), output.end_pos.item()
        assert inputs["block_mask"][output.block_idx, start : end + 1].all()
        assert end - start < 4


def test_padding_is_not_computed_and_changes_nothing():
    reader, inputs = small_reader(), question(1)
    expected = reader(**inputs, output_hidden_states=True)
    poisoned = torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], 999)  # not in the vocabulary
    output = reader(**{**inputs, "input_ids": poisoned})
    assert torch.equal(output.start_pos, expected.start_pos)
    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-5, atol=1e-6)


def test_a_mask_for_each_row_of_one_question_and_of_a_batch():
    reader, questions = small_reader(), [question(seed) for seed in (1, 2)]
    expected = [reader(**inputs).loss for inputs in questions]
    per_row = [{**q, "attention_mask": q["attention_mask"][:, None].expand(-1, 14, -1)} for q in questions]
    for inputs, loss in zip(per_row, expected, strict=True):
        torch.testing.assert_close(reader(**inputs).loss, loss, rtol=1e-5, atol=1e-6)
    stacked = {name: torch.stack([inputs[name] for inputs in per_row]) for name in per_row[0]}
    torch.testing.assert_close(reader(**stacked).loss, torch.stack(expected).mean(), rtol=1e-5, atol=1e-6)


def test_fewer_blocks_than_the_beam_are_read_as_they_are():
    inputs = {name: tensor[:2] for name, tensor in question(5).items()}
    assert small_reader()(**inputs).reader_correct.shape[0] == 2


def test_every_parameter_that_is_not_frozen_gets_a_gradient():
    reader = small_reader()
    reader(**question(1)).loss.backward()
    for name, parameter in reader.named_parameters():
        is_unused = name.startswith(("cls.", "realm.pooler."))
        assert parameter.requires_grad != is_unused
        assert (parameter.grad is None) == is_unused, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relevance_score": None}, "relevance_score"),
        ({"block_mask": None}, "block_mask"),
        ({"input_ids": None}, "input_ids or inputs_embeds"),
        ({"input_ids": torch.ones(2, 14, dtype=torch.long)}, "2 rows of inputs with relevance scores for 3"),
    ],
)
def test_missing_or_mismatched_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        small_reader()(**{**question(1), **change})


def test_inputs_shorter_than_the_widest_span_have_fewer_spans():
    expected, output = small_reader(max_span_width=14)(**question(1)), small_reader(max_span_width=15)(**question(1))
    assert torch.equal(output.start_pos, expected.start_pos)
    assert torch.equal(output.loss, expected.loss)
