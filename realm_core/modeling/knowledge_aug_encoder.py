"""The knowledge-augmented encoder: predicts masked tokens from a sentence joined with each candidate block.

Shapes: B queries, N candidates, L tokens, M masked positions, H hidden, V vocabulary.
"""

# mypy: allow-untyped-calls
# transformers and torch leave some methods unannotated.

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import MaskedLMOutput

from realm_core.modeling.bert import mlm_head_tensors, pooler_tensors, read_bert
from realm_core.modeling.configuration import RealmConfig
from realm_core.modeling.encoder import RealmBertModel, RealmPreTrainedModel
from realm_core.modeling.heads import RealmOnlyMLMHead
from realm_core.modeling.scorer import flatten_candidates
from realm_core.modeling.strict_loading import build


class RealmKnowledgeAugEncoder(RealmPreTrainedModel):
    """p(y | z, x) of REALM (Guu et al. 2020, section 3.2): a masked language model over `[CLS] x [SEP] z [SEP]`."""

    _tied_weights_keys = {  # noqa: RUF012 - as transformers has it
        "cls.predictions.decoder.weight": "realm.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    _unused_parameters = ("realm.pooler.",)

    def __init__(self, config: RealmConfig) -> None:
        super().__init__(config)
        self.realm = RealmBertModel(config)
        self.cls = RealmOnlyMLMHead(config)
        self.post_init()
        self.freeze_unused_parameters()

    @classmethod
    def from_bert(
        cls,
        path_or_hub_id: str | Path,
        *,
        seed: int = 0,
        **config_overrides: Any,  # noqa: ANN401 - any field of RealmConfig
    ) -> RealmKnowledgeAugEncoder:
        """An encoder with the weights of a BERT checkpoint and of its masked-LM head.

        Where the checkpoint has no such head, a new one is drawn from the seed, with the word embedding as its
        vocabulary projection. A missing pooler becomes the identity; no output reads it.

        Raises:
            EncoderError: the checkpoint cannot be read, is of another architecture or incomplete.
        """
        checkpoint = read_bert(path_or_hub_id, config_overrides)
        tensors = checkpoint.tensors | pooler_tensors(checkpoint, "checkpoint") | mlm_head_tensors(checkpoint, seed)
        return build(cls, checkpoint.config, tensors, checkpoint.where)

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embedding."""
        return self.realm.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the word embedding."""
        self.realm.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Linear:
        """The vocabulary projection, tied to the word embedding."""
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replaces the vocabulary projection."""
        self.cls.predictions.decoder = new_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        relevance_score: Tensor | None = None,
        labels: Tensor | None = None,
        mlm_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """Logits [B * N, L, V], and with `labels` the marginal loss, as transformers 4.40.2 defines it.

        Training should call `masked_token_log_probs`, which never makes logits of all L tokens.

        Args:
            input_ids: [B, N, L], or flattened [B * N, L].
            attention_mask: shaped like `input_ids`.
            token_type_ids: shaped like `input_ids`.
            position_ids: [B * N, L].
            inputs_embeds: [B * N, L, H] in place of `input_ids`.
            relevance_score: [B, N]; needed with `labels`.
            labels: [B, L], -100 at positions without a target.
            mlm_mask: [B, L], 1 at the positions that count; all by default.
            output_attentions: also give the attention weights of each layer.
            output_hidden_states: also give the states of each layer.
            return_dict: False for a tuple.
        """
        flat = (flatten_candidates(input_ids), flatten_candidates(attention_mask), flatten_candidates(token_type_ids))
        encoded = self.realm(
            *flat, position_ids, inputs_embeds, output_attentions, output_hidden_states, return_dict=True
        )
        logits = self.cls(encoded.last_hidden_state)
        loss = None if labels is None else marginal_loss(logits, relevance_score, labels, mlm_mask)
        output = MaskedLMOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    def masked_token_log_probs(
        self,
        input_ids_BNL: Tensor,
        attention_mask_BNL: Tensor,
        token_type_ids_BNL: Tensor,
        mask_positions_BM: Tensor,
        target_ids_BM: Tensor,
    ) -> Tensor:
        """Log-probability [B, N, M], fp32, of each target token at its masked position, for each candidate.

        The last layer and the vocabulary projection see the M masked positions only. The sentence comes first in
        every joint input, so its masked positions are the same for all candidates. Fill unused places of the last
        axis with position 0 and target 0, and leave their results out.
        """
        num_candidates, num_masks = input_ids_BNL.shape[1], mask_positions_BM.shape[1]
        states = self.realm.states_at(
            mask_positions_BM.repeat_interleave(num_candidates, 0),
            input_ids_BNL.flatten(0, 1),
            attention_mask_BNL.flatten(0, 1),
            token_type_ids_BNL.flatten(0, 1),
        )
        logits = self.cls(states).flatten(0, 1).float()
        targets = target_ids_BM.repeat_interleave(num_candidates, 0).flatten()
        return -functional.cross_entropy(logits, targets, reduction="none").view(-1, num_candidates, num_masks)


def marginal_loss(logits: Tensor, relevance_BN: Tensor | None, labels_BL: Tensor, mlm_mask_BL: Tensor | None) -> Tensor:
    """Negative log-likelihood of the labels, marginal over candidates at each token, averaged over counted tokens.

    As in transformers 4.40.2, which marginalizes each token by itself; the paper marginalizes whole sentences.
    """
    if relevance_BN is None:
        raise ValueError("labels need relevance_score too: the loss is marginal over the candidates")
    mask_BL = torch.ones_like(labels_BL, dtype=torch.float32) if mlm_mask_BL is None else mlm_mask_BL.float()
    batch, num_candidates, length = labels_BL.shape[0], relevance_BN.shape[1], labels_BL.shape[1]
    targets = labels_BL.repeat_interleave(num_candidates, 0).flatten()
    token_losses = functional.cross_entropy(logits.view(-1, logits.shape[-1]), targets, reduction="none")
    candidate_log_probs_BN1 = relevance_BN.log_softmax(-1).unsqueeze(-1)
    joint_BNL = candidate_log_probs_BN1 - token_losses.view(batch, num_candidates, length)
    marginal_BL = joint_BNL.logsumexp(1)
    return -torch.nansum((marginal_BL * mask_BL).sum() / mask_BL.sum())
