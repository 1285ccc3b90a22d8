"""A training batch in pieces that fit into memory, each without the padding that it does not need itself.

Shapes: B queries, N candidates, M masked positions, L tokens.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from realm_core.errors import UsageError
from realm_core.training.featurization import LENGTH_STEP_TOKENS

_TOKEN_ARRAYS = {
    "query_is_token_BL": ("query_ids_BL",),
    "block_is_token_BL": ("block_ids_BL", "block_token_types_BL"),
    "candidate_is_token_BNL": ("candidate_ids_BNL", "candidate_token_types_BNL"),
    "joint_is_token_BNL": ("joint_ids_BNL", "joint_token_types_BNL"),
}
_MASK_ARRAYS = {"is_masked_BM": ("mask_positions_BM", "target_ids_BM")}


def micro_batches(batch: dict[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """The tensors of a `PretrainBatch` as `count` batches of consecutive queries, as equal in number as can be.

    Each is narrowed to its own longest texts (in steps of 32 tokens, so that shapes stay few) and to the masked
    positions of the query with most. Losses and gradients are those of the whole.

    Raises:
        UsageError: more pieces than queries.
    """
    num_queries = len(batch["query_ids_BL"])
    if not 1 <= count <= num_queries:
        raise UsageError(
            where="micro_batches",
            found=f"{count} micro-batches of {num_queries} queries",
            expected="from one to as many as there are queries",
            action="Lower --accumulation-steps, or raise --batch-size.",
        )
    starts = [piece * num_queries // count for piece in range(count + 1)]
    return [_piece(batch, start, stop) for start, stop in pairwise(starts)]


def chunks(batch: dict[str, Tensor], size: int | None) -> list[dict[str, Tensor]]:
    """The tensors of an `InverseClozeBatch` as batches of `size` consecutive queries (the last may have fewer).

    Narrowed as `micro_batches` are; None gives a single chunk.
    """
    num_queries = len(batch["query_ids_BL"])
    step = size or num_queries
    return [_piece(batch, start, start + step) for start in range(0, num_queries, step)]


def _piece(batch: dict[str, Tensor], start: int, stop: int) -> dict[str, Tensor]:
    piece = {name: tensor[start:stop] for name, tensor in batch.items()}
    for arrays, step, least in ((_TOKEN_ARRAYS, LENGTH_STEP_TOKENS, 0), (_MASK_ARRAYS, 1, 1)):
        for mask, others in arrays.items():
            if mask in piece:
                width = max(least, -(-_columns_in_use(piece[mask]) // step) * step)
                piece |= {name: piece[name][..., :width] for name in (mask, *others)}
    return piece


def _columns_in_use(mask: Tensor) -> int:
    """One more than the last column where the mask is True in any row; 0 where it is True nowhere."""
    columns = mask.flatten(0, -2).any(0).nonzero()
    return int(columns[-1]) + 1 if len(columns) else 0
