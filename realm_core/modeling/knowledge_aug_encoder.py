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
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import MaskedLMOutput

from realm_core.modeling.bert import mlm_head_tensors, pooler_tensors, read_bert
from realm_core.modeling.configuration import RealmConfig
from realm_core.modeling.encoder import RealmBertModel, RealmPreTrainedModel
from realm_core.modeling.heads import RealmOnlyMLMHead
from realm_core.modeling.packed_rows import for_each_row, packed_rows
from realm_core.modeling.scorer import flatten_candidates
from realm_core.modeling.strict_loading import build

IGNORED_LABEL = -100
ROWS_OF_LOGITS = 1024
"""125 MB of logits with a vocabulary of 30,522."""


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
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        relevance_score: Tensor | None = None,
        labels: Tensor | None = None,
        mlm_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        output_logits: bool | None = None,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """Logits [B * N, L, V], and with `labels` the loss: marginal over candidates, averaged over counted tokens.

        Departs from 4.40.2 in one point: in training mode with labels there are no logits unless they are asked for.
        The loss needs those of the labelled positions only, and never makes [B * N, L, V] values.

        Args:
            input_ids: [B, N, L], or flattened [B * N, L].
            attention_mask: shaped like `input_ids`.
            token_type_ids: shaped like `input_ids`.
            position_ids: [B * N, L].
            head_mask: [A] or [layers, A], 0 for attention heads that are switched off.
            inputs_embeds: [B * N, L, H] in place of `input_ids`.
            relevance_score: [B, N]; needed with `labels`.
            labels: [B, L], -100 at positions without a target.
            mlm_mask: [B, L], 1 at the positions that count; all by default.
            output_attentions: also give the attention weights of each layer; needs logits.
            output_hidden_states: also give the states of each layer; needs logits.
            return_dict: False for a tuple.
            output_logits: whether to give logits; by default always but in training mode with labels.
        """
        flat = (flatten_candidates(input_ids), flatten_candidates(attention_mask), flatten_candidates(token_type_ids))
        inputs = (*flat, position_ids, head_mask, inputs_embeds)
        as_dict = self.config.return_dict if return_dict is None else return_dict
        asked = (output_attentions, output_hidden_states)
        configured = (self.config.output_attentions, self.config.output_hidden_states)
        wants_states = any(default if want is None else want for want, default in zip(asked, configured, strict=True))
        if output_logits is None:
            output_logits = labels is None or not self.training or wants_states
        if not output_logits and labels is None:
            raise ValueError("output_logits=False needs labels: without them nothing is left to compute")
        if not output_logits:
            output = MaskedLMOutput(loss=self._loss_of_labelled(inputs, relevance_score, labels, mlm_mask))
        else:
            encoded = self.realm(*inputs, output_attentions, output_hidden_states, return_dict=True)
            logits = self.cls(encoded.last_hidden_state)
            loss = None if labels is None else marginal_loss(logits, relevance_score, labels, mlm_mask)
            output = MaskedLMOutput(loss, logits, encoded.hidden_states, encoded.attentions)
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
        flat = (input_ids_BNL.flatten(0, 1), attention_mask_BNL.flatten(0, 1), token_type_ids_BNL.flatten(0, 1))
        inputs = (*flat, None, None, None)
        return self._token_log_probs(inputs, mask_positions_BM, target_ids_BM, input_ids_BNL.shape[1])

    def _loss_of_labelled(
        self,
        inputs: tuple[Tensor | None, ...],
        relevance_BN: Tensor | None,
        labels_BL: Tensor | None,
        mlm_mask_BL: Tensor | None,
    ) -> Tensor:
        """`marginal_loss` without the logits of positions that have no label or do not count."""
        relevance_BN = _require_relevance(relevance_BN)
        assert labels_BL is not None
        mask_BL = _mask_or_ones(labels_BL, mlm_mask_BL)
        positions_BM, targets_BM, weights_BM = labelled_positions(labels_BL, mask_BL)
        token_log_probs_BNM = self._token_log_probs(inputs, positions_BM, targets_BM, relevance_BN.shape[1])
        marginal_BM = (relevance_BN.log_softmax(-1).unsqueeze(-1) + token_log_probs_BNM).logsumexp(1)
        return -torch.nansum((marginal_BM * weights_BM).sum() / mask_BL.sum())

    def _token_log_probs(
        self, inputs: tuple[Tensor | None, ...], positions_BM: Tensor, targets_BM: Tensor, num_candidates: int
    ) -> Tensor:
        rows = next(values for values in (inputs[0], inputs[5]) if values is not None)
        if len(rows) != len(positions_BM) * num_candidates:
            raise ValueError(
                f"{len(rows)} rows of inputs with relevance_score for {len(positions_BM)} queries x {num_candidates} "
                "candidates: pass one relevance per row"
            )
        attention_mask_RL = for_each_row(inputs[1], len(rows))
        inputs = (inputs[0], attention_mask_RL, *inputs[2:])
        positions_RM = positions_BM.repeat_interleave(num_candidates, 0)
        packed = None
        if attention_mask_RL is not None and attention_mask_RL.dim() == 2:
            needed_RL = torch.zeros_like(attention_mask_RL, dtype=torch.bool).scatter_(1, positions_RM, True)
            packed = packed_rows(attention_mask_RL, needed_RL)
        states_RMH = self.realm.states_at(positions_RM, *inputs, packed=packed)
        targets = targets_BM.repeat_interleave(num_candidates, 0).flatten()
        log_probs = token_log_probs(self.cls, states_RMH.flatten(0, 1), targets)
        return log_probs.view(-1, num_candidates, positions_BM.shape[1])


def token_log_probs(head: RealmOnlyMLMHead, states_TH: Tensor, targets_T: Tensor) -> Tensor:
    """Log-probability [T], fp32, of each target under the vocabulary head.

    Logits exist for `ROWS_OF_LOGITS` rows at a time; where gradients are wanted and there are more rows, the backward
    pass makes them again.
    """
    if len(states_TH) <= ROWS_OF_LOGITS:
        return _target_log_probs(head, states_TH, targets_T)
    pieces = zip(states_TH.split(ROWS_OF_LOGITS), targets_T.split(ROWS_OF_LOGITS), strict=True)
    return torch.cat([checkpoint(_target_log_probs, head, *piece, use_reentrant=False) for piece in pieces])


def _target_log_probs(head: RealmOnlyMLMHead, states_TH: Tensor, targets_T: Tensor) -> Tensor:
    return -functional.cross_entropy(head(states_TH).float(), targets_T, reduction="none")


def marginal_loss(logits: Tensor, relevance_BN: Tensor | None, labels_BL: Tensor, mlm_mask_BL: Tensor | None) -> Tensor:
    """Negative log-likelihood of the labels, marginal over candidates at each token, averaged over counted tokens.

    As in transformers 4.40.2, which marginalizes each token by itself (the paper marginalizes whole sentences) and
    counts a position without a label as one whose label is certain.
    """
    relevance_BN = _require_relevance(relevance_BN)
    mask_BL = _mask_or_ones(labels_BL, mlm_mask_BL)
    batch, num_candidates, length = labels_BL.shape[0], relevance_BN.shape[1], labels_BL.shape[1]
    targets = labels_BL.repeat_interleave(num_candidates, 0).flatten()
    token_losses = functional.cross_entropy(logits.view(-1, logits.shape[-1]), targets, reduction="none")
    candidate_log_probs_BN1 = relevance_BN.log_softmax(-1).unsqueeze(-1)
    joint_BNL = candidate_log_probs_BN1 - token_losses.view(batch, num_candidates, length)
    marginal_BL = joint_BNL.logsumexp(1)
    return -torch.nansum((marginal_BL * mask_BL).sum() / mask_BL.sum())


def _require_relevance(relevance_BN: Tensor | None) -> Tensor:
    if relevance_BN is None:
        raise ValueError("labels need relevance_score too: the loss is marginal over the candidates")
    return relevance_BN


def _mask_or_ones(labels_BL: Tensor, mlm_mask_BL: Tensor | None) -> Tensor:
    return torch.ones_like(labels_BL, dtype=torch.float32) if mlm_mask_BL is None else mlm_mask_BL.float()


def labelled_positions(labels_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Positions, targets and weights [B, M] of the labels that count; M is that of the row with most, at least 1.

    Where a row has fewer, position 0 and target 0 fill it up, with weight 0.
    """
    weights_BL = mask_BL * (labels_BL != IGNORED_LABEL)
    counts_BL = weights_BL != 0
    num_positions = max(1, int(counts_BL.sum(1).max()))
    positions_BM = counts_BL.int().argsort(dim=1, descending=True, stable=True)[:, :num_positions]
    is_filler_BM = ~counts_BL.gather(1, positions_BM)
    targets_BM = labels_BL.gather(1, positions_BM).masked_fill(is_filler_BM, 0)
    return positions_BM.masked_fill(is_filler_BM, 0), targets_BM, weights_BL.gather(1, positions_BM)
