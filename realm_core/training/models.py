"""The modules that are trained: what a rank wraps for data parallelism.

Shapes: B queries, N candidates, M masked positions, L tokens, D projection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from realm_core.modeling.encoder import RealmPreTrainedModel
from realm_core.training.losses import RealmLoss, marginal_log_likelihood

if TYPE_CHECKING:
    import numpy as np

    from realm_core.modeling.embedder import RealmEmbedder
    from realm_core.modeling.knowledge_aug_encoder import RealmKnowledgeAugEncoder
    from realm_core.training.featurization import PretrainBatch
    from realm_core.training.inverse_cloze import InverseClozeBatch


class RealmPretrainModel(nn.Module):
    """Embedder and knowledge-augmented encoder under one loss; queries may have an embedder of their own."""

    def __init__(
        self,
        embedder: RealmEmbedder,
        encoder: RealmKnowledgeAugEncoder,
        *,
        query_embedder: RealmEmbedder | None = None,
        has_null_document: bool = True,
    ) -> None:
        super().__init__()
        self.embedder = embedder
        self.query_embedder = query_embedder
        self.encoder = encoder
        self._has_null_document = has_null_document

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, retrieval utility and number of masked tokens of a batch, see `marginal_log_likelihood`."""
        loss = self._loss(batch)
        return loss.loss, loss.retrieval_utility, loss.num_masked_tokens

    def _loss(self, batch: dict[str, Tensor]) -> RealmLoss:
        num_queries, num_candidates, _ = batch["candidate_ids_BNL"].shape
        query_BD = project(self.query_embedder or self.embedder, batch["query_ids_BL"], batch["query_is_token_BL"])
        block_RD = project(
            self.embedder,
            batch["candidate_ids_BNL"].flatten(0, 1),
            batch["candidate_is_token_BNL"].flatten(0, 1),
            batch["candidate_token_types_BNL"].flatten(0, 1),
        )
        relevance_BN = relevances(query_BD, block_RD.view(num_queries, num_candidates, -1))
        token_log_probs_BNM = self.encoder.masked_token_log_probs(
            batch["joint_ids_BNL"],
            batch["joint_is_token_BNL"],
            batch["joint_token_types_BNL"],
            batch["mask_positions_BM"],
            batch["target_ids_BM"],
        )
        return marginal_log_likelihood(
            relevance_BN, token_log_probs_BNM, batch["is_masked_BM"], has_null_document=self._has_null_document
        )


class InverseClozeModel(nn.Module):
    """The embedder alone, giving query and block projections; queries may have one of their own."""

    def __init__(self, embedder: RealmEmbedder, query_embedder: RealmEmbedder | None = None) -> None:
        super().__init__()
        self.embedder = embedder
        self.query_embedder = query_embedder

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Query projections [B, D] and block projections [B, D]."""
        query_BD = project(self.query_embedder or self.embedder, batch["query_ids_BL"], batch["query_is_token_BL"])
        block_BD = project(
            self.embedder, batch["block_ids_BL"], batch["block_is_token_BL"], batch["block_token_types_BL"]
        )
        return query_BD, block_BD


def set_dropout(model: nn.Module, probability: float) -> None:
    """Sets the probability of every dropout layer; at 0 attention takes its fast path."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability


def recompute_layers(model: nn.Module) -> None:
    """Gradient checkpointing: the backward pass makes each Transformer layer again from its input.

    A step then keeps one state per layer and token and the inner values of a single layer; it costs one more forward
    pass of the layers. Gradients are the same, dropout included.
    """
    for part in model.children():
        if isinstance(part, RealmPreTrainedModel):
            part.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})


def project(embedder: RealmEmbedder, ids_RL: Tensor, is_token_RL: Tensor, types_RL: Tensor | None = None) -> Tensor:
    """Projections [R, D] of R rows; without token types all are 0, as in a query."""
    types_RL = torch.zeros_like(ids_RL) if types_RL is None else types_RL
    output = embedder(input_ids=ids_RL, attention_mask=is_token_RL, token_type_ids=types_RL)
    projected: Tensor = output.projected_score
    return projected


def relevances(query_BD: Tensor, block_BND: Tensor) -> Tensor:
    """Relevance of each query's candidates [B, N] in fp32, also where the embedders run in bf16.

    Between 64 and 128, where relevances of trained embedders lie, neighbours in bf16 are half a nat apart: close
    candidates would be tied.
    """
    with torch.autocast(query_BD.device.type, enabled=False):
        return torch.einsum("bd,bnd->bn", query_BD.float(), block_BND.float())


def to_tensors(batch: PretrainBatch | InverseClozeBatch, device: torch.device | str) -> dict[str, Tensor]:
    """The batch's arrays as tensors on a device: ids as int64, masks as bool."""
    return {name: _to_tensor(getattr(batch, name), device) for name in batch.__dataclass_fields__}


def _to_tensor(array: np.ndarray, device: Any) -> Tensor:  # noqa: ANN401 - whatever torch takes
    tensor = torch.as_tensor(array.copy())
    return tensor.to(device=device, dtype=torch.bool if tensor.dtype == torch.bool else torch.int64)
