"""The scorer: relevance of candidate blocks for a query.

Shapes: B queries, N candidates, L tokens, D projection.
"""

# mypy: allow-untyped-calls
# transformers and torch leave some methods unannotated.

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers.utils.generic import ModelOutput

from realm_core.modeling.configuration import RealmConfig
from realm_core.modeling.embedder import RealmEmbedder
from realm_core.modeling.encoder import RealmPreTrainedModel


@dataclass
class RealmScorerOutput(ModelOutput):
    """What RealmScorer gives."""

    relevance_score: Tensor | None = None
    """Inner products [B, N]."""
    query_score: Tensor | None = None
    """Embeddings of the queries [B, D]."""
    candidate_score: Tensor | None = None
    """Embeddings of the candidates [B, N, D]."""


class RealmScorer(RealmPreTrainedModel):
    """Relevance f(x, z) = Embed(x) . Embed(z) of each candidate (Guu et al. 2020, section 3.2).

    A checkpoint with an embedder of its own for queries needs `query_embedder=` when it is loaded.
    """

    _keys_to_ignore_on_load_unexpected = [r"position_ids$", r"^query_embedder\."]  # noqa: RUF012 - as transformers has it
    _unused_parameters = ("embedder.cls.predictions.", "query_embedder.cls.predictions.")

    def __init__(self, config: RealmConfig, query_embedder: RealmEmbedder | None = None) -> None:
        super().__init__(config)
        self.embedder = RealmEmbedder(config)
        if query_embedder is not None:
            self._modules["query_embedder"] = query_embedder
        self.post_init()
        self.freeze_unused_parameters()

    @property
    def query_embedder(self) -> RealmEmbedder:
        """What embeds queries: the embedder of the candidates, unless another one was given."""
        return cast(RealmEmbedder, self._modules.get("query_embedder", self.embedder))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        candidate_input_ids: Tensor | None = None,
        candidate_attention_mask: Tensor | None = None,
        candidate_token_type_ids: Tensor | None = None,
        candidate_inputs_embeds: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> RealmScorerOutput | tuple[Tensor, Tensor, Tensor]:
        """Scores the candidates of each query.

        Args:
            input_ids: queries [B, L].
            attention_mask: [B, L].
            token_type_ids: [B, L].
            position_ids: of queries and candidates alike, [1, L]; 0, 1, 2 … by default.
            candidate_input_ids: [B, N, L], or flattened [B * N, L]; N follows from the shapes.
            candidate_attention_mask: shaped like `candidate_input_ids`.
            candidate_token_type_ids: shaped like `candidate_input_ids`.
            candidate_inputs_embeds: [B * N, L, H] in place of `candidate_input_ids`.
            head_mask: [A] or [layers, A], 0 for attention heads that are switched off.
            inputs_embeds: [B, L, H] in place of `input_ids`.
            output_attentions: accepted as in 4.40.2, where no output holds them either.
            output_hidden_states: likewise.
            return_dict: False for a tuple.
        """
        del output_attentions, output_hidden_states
        if input_ids is None and inputs_embeds is None:
            raise ValueError("pass either input_ids or inputs_embeds")
        if candidate_input_ids is None and candidate_inputs_embeds is None:
            raise ValueError("pass either candidate_input_ids or candidate_inputs_embeds")
        query_BD = self.query_embedder(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds, return_dict=True
        ).projected_score
        candidate_RD = self.embedder(
            flatten_candidates(candidate_input_ids),
            flatten_candidates(candidate_attention_mask),
            flatten_candidates(candidate_token_type_ids),
            position_ids,
            head_mask,
            candidate_inputs_embeds,
            return_dict=True,
        ).projected_score
        candidate_BND = candidate_RD.view(query_BD.shape[0], -1, query_BD.shape[1])
        relevance_BN = torch.einsum("bd,bnd->bn", query_BD, candidate_BND)
        if not (self.config.return_dict if return_dict is None else return_dict):
            return relevance_BN, query_BD, candidate_BND
        return RealmScorerOutput(relevance_BN, query_BD, candidate_BND)


def flatten_candidates(tensor: Tensor | None) -> Tensor | None:
    """[B, N, L] as [B * N, L]; what is flat already, or absent, stays as it is."""
    return tensor if tensor is None or tensor.dim() < 3 else tensor.flatten(0, 1)
