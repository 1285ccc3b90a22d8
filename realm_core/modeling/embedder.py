"""The embedder: a text to one vector, by its [CLS] state.

Shapes: B sequences, L tokens, H hidden, D projection.
"""

# mypy: allow-untyped-calls
# transformers and torch leave some methods unannotated.

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from realm_core.modeling.bert import Pooler, mlm_head_tensors, pooler_tensors, projection_tensors, read_bert
from realm_core.modeling.configuration import RealmConfig
from realm_core.modeling.encoder import RealmBertModel, RealmPreTrainedModel
from realm_core.modeling.heads import RealmScorerProjection
from realm_core.modeling.packed_rows import for_each_row, packed_rows
from realm_core.modeling.strict_loading import build


@dataclass
class RealmEmbedderOutput(ModelOutput):
    """What RealmEmbedder gives."""

    projected_score: Tensor | None = None
    """Embeddings [B, D]."""
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class RealmEmbedder(RealmPreTrainedModel):
    """Embeds queries and blocks: the projected, normalized [CLS] state (Guu et al. 2020, section 3.2).

    Unless hidden states or attention weights are asked for, the last layer computes the [CLS] row only and, on a CPU,
    padding is left out; the embedding is the same but for rounding.
    """

    _tied_weights_keys = {"cls.predictions.decoder.bias": "cls.predictions.bias"}  # noqa: RUF012 - as transformers has it
    _unused_parameters = ("cls.predictions.",)

    def __init__(self, config: RealmConfig) -> None:
        super().__init__(config)
        self.realm = RealmBertModel(config)
        self.cls = RealmScorerProjection(config)
        self.post_init()
        self.freeze_unused_parameters()

    @classmethod
    def from_bert(
        cls,
        path_or_hub_id: str | Path,
        *,
        retriever_proj_size: int = 128,
        seed: int = 0,
        pooler: Pooler = "identity",
        **config_overrides: Any,  # noqa: ANN401 - any field of RealmConfig
    ) -> RealmEmbedder:
        """An embedder whose encoder is that of a BERT checkpoint, the same for the same seed.

        The projection is always new. So is the masked-LM head where the checkpoint has none; no output reads it.

        Args:
            path_or_hub_id: directory or hub id of a BertModel, BertForMaskedLM or BertForPreTraining.
            retriever_proj_size: D.
            seed: of the new tensors.
            pooler: "checkpoint" takes the checkpoint's pooler (the identity if it has none); "identity" sets the
                pooler's weight to the unit matrix and its bias to 0, so that the pooled state is tanh([CLS] state).
            config_overrides: further fields of RealmConfig, for example `hidden_dropout_prob=0.0`.

        Raises:
            EncoderError: the checkpoint cannot be read, is of another architecture or incomplete.
        """
        checkpoint = read_bert(path_or_hub_id, {**config_overrides, "retriever_proj_size": retriever_proj_size})
        tensors = (
            checkpoint.tensors
            | pooler_tensors(checkpoint, pooler)
            | mlm_head_tensors(checkpoint, seed)
            | projection_tensors(checkpoint.config, seed)
        )
        return build(cls, checkpoint.config, tensors, checkpoint.where)

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
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> RealmEmbedderOutput | tuple[Any, ...]:
        """Embeddings [B, D] of token ids [B, L]; see RealmBertModel.forward for the arguments."""
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds)
        attentions = self.config.output_attentions if output_attentions is None else output_attentions
        hidden_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        if attentions or hidden_states:
            encoded = self.realm(*inputs, attentions, hidden_states, return_dict=True)
            output = RealmEmbedderOutput(self.cls(encoded.pooler_output), encoded.hidden_states, encoded.attentions)
        else:
            output = RealmEmbedderOutput(self.cls(self._pooled(*inputs)))
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    def _pooled(self, input_ids: Tensor | None, attention_mask: Tensor | None, *inputs: Tensor | None) -> Tensor:
        words = input_ids if input_ids is not None else inputs[-1]
        if words is None:
            raise ValueError("pass either input_ids or inputs_embeds")
        first_B1 = torch.zeros(words.shape[0], 1, dtype=torch.long, device=words.device)
        attention_mask = for_each_row(attention_mask, len(words))
        packed = packed_rows(attention_mask)
        states_B1H = self.realm.states_at(first_B1, input_ids, attention_mask, *inputs, packed=packed)
        return self.realm.pool(states_B1H[:, 0])
