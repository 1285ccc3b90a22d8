"""The reader: finds the answer's span in evidence blocks.

Shapes: B questions, N blocks retrieved (the searcher's beam), K blocks read (the reader's beam), L tokens, H hidden,
S spans, W answers of a block; `...` is nothing for one question and B for a batch.
"""

# mypy: allow-untyped-calls
# transformers and torch leave some methods unannotated.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from realm_core.modeling.configuration import RealmConfig
from realm_core.modeling.encoder import RealmBertModel, RealmPreTrainedModel
from realm_core.modeling.heads import RealmOnlyMLMHead
from realm_core.modeling.packed_rows import for_each_row, packed_rows
from realm_core.modeling.spans import add_mask, is_answer_span, marginal_log_loss, span_candidates

BLOCKS_AT_A_TIME = 8
"""Blocks whose spans are scored together: 26 MB with the published sizes, 3,155 spans of 256 numbers a block."""


@dataclass
class RealmReaderOutput(ModelOutput):
    """What RealmReader gives; for a batch of questions every field but `loss` has a leading axis B."""

    loss: Tensor | None = None
    """Retriever and reader loss together; the mean over the questions of a batch."""
    retriever_loss: Tensor | None = None
    """[...]: of the blocks that hold an answer, among all N."""
    reader_loss: Tensor | None = None
    """[...]: of the spans that are an answer, among all spans of the K blocks."""
    retriever_correct: Tensor | None = None
    """bool [..., N]: whether a block holds an answer."""
    reader_correct: Tensor | None = None
    """bool [..., K, S]: whether a span is an answer."""
    block_idx: Tensor | None = None
    """[...]: the block, of the K, with the most likely answer."""
    candidate: Tensor | None = None
    """[...]: the most likely span, an index into the S candidates."""
    start_pos: Tensor | None = None
    """[1] or [B, 1]: its first token in the block's input."""
    end_pos: Tensor | None = None
    """[1] or [B, 1]: its last token."""
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class RealmReaderProjection(nn.Module):
    """Scores every span of a block by the states of its first and last token (Lee et al. 2019, section 3)."""

    def __init__(self, config: RealmConfig) -> None:
        super().__init__()
        self.max_span_width = config.max_span_width
        self.dense_intermediate = nn.Linear(config.hidden_size, config.span_hidden_size * 2)
        self.dense_output = nn.Linear(config.span_hidden_size, 1)
        self.layer_normalization = nn.LayerNorm(config.span_hidden_size, eps=config.reader_layer_norm_eps)

    def forward(self, states_KLH: Tensor, block_mask_KL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores [K, S] and the first and last token [S] of all spans; spans outside the evidence score -3.4e38.

        Args:
            states_KLH: the encoder's states.
            block_mask_KL: True at the tokens of the evidence.
        """
        num_tokens = states_KLH.shape[1]
        starts_S, ends_S = span_candidates(num_tokens, min(num_tokens, self.max_span_width), states_KLH.device)
        blocks = self.dense_intermediate(states_KLH).split(BLOCKS_AT_A_TIME)
        scores_KS = torch.cat([self._scores(states, starts_S, ends_S) for states in blocks])
        is_inside_KS = block_mask_KL.index_select(1, starts_S) & block_mask_KL.index_select(1, ends_S)
        return add_mask(scores_KS, is_inside_KS), starts_S, ends_S

    def _scores(self, states: Tensor, starts_S: Tensor, ends_S: Tensor) -> Tensor:
        start_states, end_states = states.chunk(2, dim=-1)
        hidden = torch.relu(start_states.index_select(1, starts_S) + end_states.index_select(1, ends_S))
        return cast(Tensor, self.dense_output(self.layer_normalization(hidden)).squeeze(-1))


class RealmReader(RealmPreTrainedModel):
    """Reads evidence and finds the answer span (Lee et al. 2019, section 3; Guu et al. 2020, section 4)."""

    _tied_weights_keys = {"cls.predictions.decoder.bias": "cls.predictions.bias"}  # noqa: RUF012 - as transformers has it
    _unused_parameters = ("cls.", "realm.pooler.")

    def __init__(self, config: RealmConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.realm = RealmBertModel(config)
        self.cls = RealmOnlyMLMHead(config)
        self.qa_outputs = RealmReaderProjection(config)
        self.post_init()
        self.freeze_unused_parameters()

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embedding."""
        return self.realm.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the word embedding."""
        self.realm.set_input_embeddings(value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        relevance_score: Tensor | None = None,
        block_mask: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        has_answers: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> RealmReaderOutput | tuple[Any, ...]:
        """The best span over the K blocks that are read, and with answers the losses.

        For one question give `relevance_score` [N], as in 4.40.2; for a batch [B, N], the other arguments then with B
        in front of N, and inputs [B * K, L] or [B, K, L].

        Args:
            input_ids: `[CLS] question [SEP] block [SEP]`, [K, L]; K is `config.reader_beam_size`, or N if that is less.
            attention_mask: shaped like `input_ids`.
            token_type_ids: shaped like `input_ids`.
            position_ids: shaped like `input_ids`.
            head_mask: [A] or [layers, A], 0 for attention heads that are switched off.
            inputs_embeds: [K, L, H] in place of `input_ids`.
            relevance_score: [N]; the first K are those of the blocks that are read.
            block_mask: [N, L] or [K, L], True at the tokens of the evidence.
            start_positions: [N, W] or [K, W], the answers' first tokens, -1 where there are fewer.
            end_positions: likewise, the last tokens.
            has_answers: [N], whether a block holds an answer.
            output_attentions: also give the attention weights of each layer.
            output_hidden_states: also give the states of each layer.
            return_dict: False for a tuple.
        """
        if relevance_score is None:
            raise ValueError("pass relevance_score: spans are scored together with their blocks")
        if block_mask is None:
            raise ValueError("pass block_mask: it tells the tokens of the evidence from those of the question")
        num_read = min(self.config.reader_beam_size, relevance_score.shape[-1])
        leading = relevance_score.shape[:-1]
        block_mask = block_mask.to(torch.bool)[..., :num_read, :].flatten(0, -2)
        inputs = [
            _rows(values, (*leading, num_read)) for values in (input_ids, attention_mask, token_type_ids, position_ids)
        ]
        self._check_rows(inputs[0] if inputs[0] is not None else inputs_embeds, leading.numel() * num_read)
        states_RLH, extras = self._states(
            inputs, head_mask, inputs_embeds, block_mask, output_attentions, output_hidden_states
        )
        scores_RS, starts_S, ends_S = self.qa_outputs(states_RLH, block_mask)
        scores = scores_RS.view(*leading, num_read, -1) + relevance_score[..., :num_read, None]
        losses: dict[str, Tensor] = {}
        if start_positions is not None and end_positions is not None and has_answers is not None:
            is_answer = is_answer_span(
                starts_S, ends_S, start_positions[..., :num_read, :], end_positions[..., :num_read, :]
            )
            losses = _losses(scores, is_answer, relevance_score, has_answers)
        hidden_states, attentions = extras
        output = RealmReaderOutput(
            **losses, **_best_span(scores, starts_S, ends_S), hidden_states=hidden_states, attentions=attentions
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def _check_rows(self, words: Tensor | None, num_rows: int) -> None:
        if words is None:
            raise ValueError("pass either input_ids or inputs_embeds")
        if words.shape[0] != num_rows:
            raise ValueError(
                f"{words.shape[0]} rows of inputs with relevance scores for {num_rows}: pass the inputs of the first "
                f"reader_beam_size = {self.config.reader_beam_size} blocks of each question"
            )

    def _states(
        self,
        inputs: list[Tensor | None],
        head_mask: Tensor | None,
        inputs_embeds: Tensor | None,
        block_mask_RL: Tensor,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
    ) -> tuple[Tensor, tuple[Any, Any]]:
        """States of all tokens; without those of padding where nothing but spans is asked for."""
        input_ids, attention_mask, token_type_ids, position_ids = inputs
        attention_mask = for_each_row(attention_mask, len(block_mask_RL))
        wants_more = head_mask is not None or output_attentions or output_hidden_states
        wants_more = wants_more or self.config.output_attentions or self.config.output_hidden_states
        packed = None if wants_more else packed_rows(attention_mask, block_mask_RL)
        if packed is not None:
            return self.realm.token_states(packed, input_ids, token_type_ids, position_ids, inputs_embeds), (None, None)
        encoded = self.realm(
            *inputs, head_mask, inputs_embeds, output_attentions, output_hidden_states, return_dict=True
        )
        return cast(Tensor, encoded.last_hidden_state), (encoded.hidden_states, encoded.attentions)


def _rows(values: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
    """Inputs of a batch [B, K, ...] as [B * K, ...]; those of one question, and rows already, stay as they are."""
    is_batch = values is not None and len(shape) == 2 and values.dim() > 2 and values.shape[:2] == shape
    return values.flatten(0, 1) if values is not None and is_batch else values


def _best_span(scores: Tensor, starts_S: Tensor, ends_S: Tensor) -> dict[str, Tensor]:
    """The best of all spans of all blocks; scores [..., K, S]."""
    candidate = scores.amax(-2).argmax(-1)
    return {
        "block_idx": scores.amax(-1).argmax(-1),
        "candidate": candidate,
        "start_pos": starts_S[candidate.unsqueeze(-1)],
        "end_pos": ends_S[candidate.unsqueeze(-1)],
    }


def _losses(scores: Tensor, is_answer: Tensor, relevance: Tensor, has_answers: Tensor) -> dict[str, Tensor]:
    """Losses and what they count as correct; scores and is_answer [..., K, S], relevance and has_answers [..., N]."""
    retriever_loss = marginal_log_loss(relevance, has_answers.to(torch.bool))
    reader_loss = marginal_log_loss(scores.flatten(-2), is_answer.flatten(-2))
    return {
        "loss": (retriever_loss + reader_loss).mean(),
        "retriever_loss": retriever_loss,
        "reader_loss": reader_loss,
        "retriever_correct": has_answers,
        "reader_correct": is_answer,
    }
