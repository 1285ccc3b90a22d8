from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_encoders import realm_config

from realm_core.modeling import encoder as encoder_module
from realm_core.modeling.embedder import RealmEmbedder
from realm_core.modeling.encoder import RealmBertModel
from realm_core.modeling.knowledge_aug_encoder import RealmKnowledgeAugEncoder
from realm_core.modeling.packed_rows import PackedRows, packed_rows

MASKS = st.integers(1, 5).flatmap(
    lambda length: st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=1, max_size=5)
)


@given(MASKS)
def test_packing_keeps_tokens_in_order_and_unpacking_puts_zeros_elsewhere(mask):
    is_token = torch.tensor(mask)
    packed = PackedRows.of(is_token)
    values = torch.arange(1.0, is_token.numel() + 1).view(*is_token.shape, 1)
    tokens = packed.pack(values)
    assert tokens[:, 0].tolist() == values[..., 0][is_token].tolist()
    assert sum(packed.lengths) == len(tokens)
    assert torch.equal(packed.unpack(tokens), values * is_token.unsqueeze(-1))
    assert packed.columns_T.tolist() == is_token.nonzero()[:, 1].tolist()


def test_rows_are_found_by_their_column():
    is_token = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0]], dtype=torch.bool)
    packed = PackedRows.of(is_token)
    values = torch.arange(8.0).view(2, 4, 1)
    found = packed.gather(packed.pack(values), torch.tensor([[3, 0], [2, 1]]))
    assert found[..., 0].tolist() == [[3, 0], [6, 5]]


@given(MASKS, st.integers(1, 8))
def test_groups_are_consecutive_complete_and_small(mask, max_tokens):
    packed = PackedRows.of(torch.tensor(mask))
    groups = packed.groups(max_tokens)
    assert [length for group in groups for length in group.lengths] == list(packed.lengths)
    assert torch.equal(torch.cat([group.places_T for group in groups]), packed.places_T)
    assert all(len(group.lengths) == 1 or sum(group.lengths) <= max_tokens for group in groups)
    assert [group.rows.start for group in groups] == [0, *(group.rows.stop for group in groups[:-1])]


def padded_mask(*lengths, width=12):
    return (torch.arange(width) < torch.tensor(lengths)[:, None]).long()


def test_padding_stays_where_packing_would_not_be_right_or_not_pay():
    assert packed_rows(padded_mask(12, 5)) is not None
    assert packed_rows(None) is None
    assert packed_rows(padded_mask(12, 12)) is None  # nothing to gain
    assert packed_rows(padded_mask(12, 0)) is None  # a sequence without tokens
    assert packed_rows(padded_mask(12, 5)[:, None].expand(-1, 12, -1)) is None  # a mask per row
    hole = padded_mask(12, 5)
    hole[1, 0] = 0
    assert packed_rows(hole) is None  # the state of [CLS] is asked for
    needed = torch.zeros(2, 12, dtype=torch.bool)
    needed[1, 7] = True
    assert packed_rows(padded_mask(12, 5), needed) is None  # the state of padding is asked for


@pytest.mark.parametrize("with_types", [True, False])
@pytest.mark.parametrize("with_positions", [True, False])
def test_packed_states_are_those_of_each_sequence_by_itself(with_types, with_positions):
    torch.manual_seed(0)
    model = RealmBertModel(realm_config()).eval()
    mask = padded_mask(9, 4, 12)
    ids = torch.randint(5, 40, mask.shape)
    ids[mask == 0] = 999  # out of the vocabulary: reading padding would fail
    types = torch.randint(0, 2, mask.shape) if with_types else None
    positions = torch.arange(12).flip(0)[None] if with_positions else None
    states = model.token_states(PackedRows.of(mask), ids, types, positions)
    for row, length in enumerate((9, 4, 12)):
        alone = [None if t is None else t[min(row, len(t) - 1) :][:1, :length] for t in (ids, types, positions)]
        expected = model(alone[0], None, alone[1], alone[2]).last_hidden_state[0]
        torch.testing.assert_close(states[row, :length], expected, rtol=1e-4, atol=1e-5)
        assert states[row, length:].abs().sum() == 0


def test_an_embedding_does_not_depend_on_packing_nor_on_the_padding_token():
    torch.manual_seed(0)
    embedder = RealmEmbedder(realm_config()).eval()
    mask = padded_mask(9, 4, 12)
    ids = torch.randint(5, 40, mask.shape)
    packed = embedder(torch.where(mask.bool(), ids, 999), mask).projected_score
    padded = embedder(ids, mask, output_hidden_states=True).projected_score
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)


def test_states_do_not_depend_on_the_groups(monkeypatch):
    torch.manual_seed(0)
    model, mask = RealmBertModel(realm_config()).eval(), padded_mask(9, 4, 12, 3, 7)
    ids, positions = torch.randint(5, 40, mask.shape), torch.tensor([[1, 0], [3, 3], [11, 5], [2, 0], [6, 1]])
    packed = PackedRows.of(mask)
    at, whole = model.states_at(positions, ids, mask, packed=packed), model.token_states(packed, ids)
    for max_tokens in (1, 13, 100):
        monkeypatch.setattr(encoder_module, "TOKENS_AT_A_TIME", max_tokens)
        with torch.no_grad():
            torch.testing.assert_close(model.states_at(positions, ids, mask, packed=packed), at, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(model.token_states(packed, ids), whole, rtol=1e-4, atol=1e-5)


def test_gradients_of_packed_and_padded_sequences_are_the_same():
    torch.manual_seed(0)
    encoder = RealmKnowledgeAugEncoder(realm_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).train()
    mask = padded_mask(11, 5, 9, 12, 6, 7).view(2, 3, 12)
    ids = torch.randint(5, 40, mask.shape)
    labels = torch.full((2, 12), -100)
    labels[0, 1:4], labels[1, 2] = 9, 8
    relevance = torch.randn(2, 3)
    gradients = {}
    for wants_logits in (False, True):  # with logits all rows are computed, padding too
        encoder.zero_grad()
        encoder(ids, mask, relevance_score=relevance, labels=labels, output_logits=wants_logits).loss.backward()
        gradients[wants_logits] = {n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None}
    assert gradients[False].keys() == gradients[True].keys()
    for name, expected in gradients[True].items():
        torch.testing.assert_close(gradients[False][name], expected, rtol=1e-4, atol=1e-6)
