"""The encoder inside every REALM model, with the published state-dict names.

Shapes: B sequences, L tokens, Q query rows, H hidden.
"""

# mypy: allow-untyped-calls
# transformers and torch leave some methods unannotated.

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, initialization
from transformers.modeling_outputs import BaseModelOutputWithPooling

from realm_core.errors import EncoderError
from realm_core.modeling.configuration import RealmConfig
from realm_core.modeling.heads import RealmLMPredictionHead
from realm_core.modeling.layers import (
    OWN_ATTENTION,
    AttentionScope,
    RealmEmbeddings,
    RealmEncoder,
    RealmPooler,
    attention_scope,
    gather_rows,
)
from realm_core.modeling.packed_rows import TOKENS_AT_A_TIME, PackedRows, for_each_row
from realm_core.modeling.weights import check_bin, refused_pickle


class RealmPreTrainedModel(PreTrainedModel):
    """What all REALM models share: the configuration class, initialization, and how checkpoints are loaded."""

    config: RealmConfig
    config_class = RealmConfig
    base_model_prefix = "realm"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["RealmEmbeddings", "RealmLayer"]  # noqa: RUF012 - as transformers has it
    _keys_to_ignore_on_load_unexpected = [r"position_ids$", r"token_type_ids$"]  # noqa: RUF012 - likewise

    _unused_parameters: tuple[str, ...] = ()
    """Prefixes of parameters that published checkpoints carry and no output reads. They are frozen: an optimizer
    and DistributedDataParallel then leave them alone instead of waiting for gradients that never come."""

    def freeze_unused_parameters(self) -> None:
        """Stops gradients of the parameters that no output of this model depends on."""
        for name, parameter in self.named_parameters():
            if name.startswith(self._unused_parameters):
                parameter.requires_grad_(False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RealmLMPredictionHead):
            initialization.zeros_(module.bias)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - a model, or a pair with loading info
        """As in transformers, with the unused parameters frozen again (loading makes new ones).

        Raises:
            EncoderError: a `pytorch_model.bin` that asks for more than tensors, by name; or `weights_only=False`.
        """
        where = str(kwargs.get("pretrained_model_name_or_path", args[0] if args else None))
        if kwargs.get("weights_only") is False:
            raise EncoderError(
                where=where,
                found="weights_only=False",
                expected="True, the default: nothing that could run code is unpickled here",
                action="Leave it out; save weights that cannot be loaded so with safetensors.",
            )
        if Path(where, "pytorch_model.bin").is_file() and not kwargs.get("state_dict"):
            check_bin(Path(where))
        try:
            loaded = super().from_pretrained(*args, **kwargs)
        except pickle.UnpicklingError as error:
            raise refused_pickle(where, error) from error
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        _separate(model)
        model.freeze_unused_parameters()
        return loaded


def _separate(model: PreTrainedModel) -> None:
    """Gives parameters that shared their memory in the file memory of their own: only tied ones are to be one."""
    seen: set[int] = set()
    for _, parameter in model.named_parameters():  # names tied parameters once
        if parameter.device.type != "meta" and parameter.data_ptr() in seen:
            parameter.data = parameter.data.clone()
        seen.add(parameter.data_ptr())


class RealmBertModel(RealmPreTrainedModel):
    """Embeddings, encoder and pooler."""

    def __init__(self, config: RealmConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = RealmEmbeddings(config)
        self.encoder = RealmEncoder(config)
        self.pooler = RealmPooler(config) if add_pooling_layer else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embedding."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the word embedding."""
        self.embeddings.word_embeddings = cast(nn.Embedding, value)

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
    ) -> BaseModelOutputWithPooling | tuple[Tensor | None, ...]:
        """States [B, L, H] and pooled state [B, H] of token ids [B, L].

        Args:
            input_ids: [B, L].
            attention_mask: [B, L], 1 for tokens and 0 for padding; or [B, L, L] for a mask per row.
            token_type_ids: [B, L], all 0 by default.
            position_ids: [B, L], 0, 1, 2 … by default.
            head_mask: [A] or [layers, A], 0 for attention heads that are switched off.
            inputs_embeds: [B, L, H] in place of `input_ids`.
            output_attentions: also give the attention weights of each layer.
            output_hidden_states: also give the states before the first and after each layer.
            return_dict: False for a tuple.
        """
        attentions = self.config.output_attentions if output_attentions is None else output_attentions
        hidden_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        hidden_BLH = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds)
        scope = attention_scope(self.config, hidden_BLH, attention_mask, head_mask, attentions)
        encoded = self.encoder(hidden_BLH, scope, hidden_states)
        last_BLH = encoded.last_hidden_state
        pooled_BH = None if self.pooler is None else self.pooler(last_BLH[:, 0])
        if not (self.config.return_dict if return_dict is None else return_dict):
            return (last_BLH, pooled_BH, *encoded.to_tuple()[1:])
        return BaseModelOutputWithPooling(
            last_hidden_state=last_BLH,
            pooler_output=pooled_BH,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def pool(self, cls_BH: Tensor) -> Tensor:
        """Pooled state [B, H] of the [CLS] state [B, H]."""
        if self.pooler is None:
            raise ValueError("this RealmBertModel was made with add_pooling_layer=False and has no pooler")
        return cast(Tensor, self.pooler(cls_BH))

    def states_at(
        self,
        positions_BQ: Tensor,
        input_ids: Tensor | None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        *,
        packed: PackedRows | None = None,
    ) -> Tensor:
        """Last states [B, Q, H] at some positions: the forward pass without the rows nobody reads.

        Args:
            positions_BQ: columns of the states that are wanted.
            input_ids: see `forward`, also for the arguments after it.
            attention_mask: see `forward`.
            token_type_ids: see `forward`.
            position_ids: see `forward`.
            head_mask: see `forward`.
            inputs_embeds: see `forward`.
            packed: where the tokens are, from `packed_rows`, to leave the padding out as well. The states are the same
                but for rounding, which then depends on the batch: leave it None where bits must not.
        """
        if packed is not None and head_mask is None:
            inputs = (input_ids, token_type_ids, position_ids, inputs_embeds)
            return torch.cat(
                [
                    self.encoder.states_at(
                        self._embed_packed(group, *inputs), AttentionScope(packed=group), positions_BQ[group.rows]
                    )
                    for group in self._groups(packed)
                ]
            )
        hidden_BLH = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds)
        scope = attention_scope(self.config, hidden_BLH, attention_mask, head_mask)
        if self.config._attn_implementation in OWN_ATTENTION:
            return self.encoder.states_at(hidden_BLH, scope, positions_BQ)
        return gather_rows(self.encoder(hidden_BLH, scope).last_hidden_state, positions_BQ)

    def token_states(
        self,
        packed: PackedRows,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Last states [B, L, H] of all tokens, without computing those of padding, which are 0."""
        inputs = (input_ids, token_type_ids, position_ids, inputs_embeds)
        states = [
            self.encoder(self._embed_packed(group, *inputs), AttentionScope(packed=group)).last_hidden_state
            for group in self._groups(packed)
        ]
        return packed.unpack(torch.cat(states))

    def _embed_packed(
        self,
        packed: PackedRows,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
        inputs_embeds: Tensor | None,
    ) -> Tensor:
        num_rows = len(input_ids if input_ids is not None else cast(Tensor, inputs_embeds))
        ids_T, types_T, embeds_TH = (
            None if values is None else packed.pack(values)
            for values in (input_ids, for_each_row(token_type_ids, num_rows), inputs_embeds)
        )
        positions_T = packed.columns_T if position_ids is None else packed.pack(position_ids.expand(num_rows, -1))
        return cast(Tensor, self.embeddings(ids_T, types_T, positions_T, embeds_TH))

    def _groups(self, packed: PackedRows) -> list[PackedRows]:
        """In training all together, with gradients or without: dropout then draws the same for both."""
        together = self.training or torch.is_grad_enabled()
        return [packed] if together else packed.groups(TOKENS_AT_A_TIME)
