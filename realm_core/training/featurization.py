"""Token arrays of a pre-training batch.

Shapes: B queries, N candidates, K hits, M masked positions, L tokens (of the query, the candidate or the joint input).

    query      [CLS] query [SEP]                          types 0
    candidate  [CLS] title [SEP] body [SEP]               types 0 for the title's part, 1 for the body's
    joint      [CLS] query [SEP] title [SEP] body [SEP]   types 0 for the query's part, 1 for the rest

Departs from the reference in one thing: there the joint input leaves the title out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from realm_core.errors import TrainingError, UsageError
from realm_core.training.masking import MaskedQuery, SkipReason, TokenIds

if TYPE_CHECKING:
    from realm_core.modeling.checkpoints import LoadedEncoder

NULL_BLOCK_ID = -1
"""The null document's id; also what a searcher pads missing hits with."""

LENGTH_STEP_TOKENS = 32
"""Inputs are padded to the longest of the batch, rounded up to this: few shapes, little waste."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpecialTokens:
    """Ids of the marker tokens in the vocabulary."""

    cls_id: int
    sep_id: int
    mask_id: int
    pad_id: int


def special_tokens(encoder: LoadedEncoder) -> SpecialTokens:
    """The marker tokens of an encoder's own vocabulary."""
    return SpecialTokens(
        cls_id=encoder.token_id("[CLS]"),
        sep_id=encoder.token_id("[SEP]"),
        mask_id=encoder.token_id("[MASK]"),
        pad_id=encoder.token_id("[PAD]"),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class FeaturizerConfig:
    """Sizes of a batch's arrays; longer texts are cut at their end."""

    query_length_tokens: int = 64
    """Longest query with its two markers. The paper's runs used 96."""
    block_length_tokens: int = 288
    """Longest candidate with its three markers (ORQA's block length)."""
    num_candidates: int = 8
    """Candidates per query, the null document counted (REALM, section 4.2)."""
    max_masks: int = 10
    """Most masked word pieces of a query (the reference: 10); longer salient spans are skipped."""
    has_null_document: bool = True
    """Whether the null document is each query's first candidate (REALM, section 3.4). Without it all candidates are
    retrieved blocks, and retrieval utility, the gain over the null document, does not exist."""

    def __post_init__(self) -> None:
        minimums = {"query_length_tokens": 3, "block_length_tokens": 4, "num_candidates": 2, "max_masks": 1}
        wrong = [f"{name}={getattr(self, name)}" for name, least in minimums.items() if getattr(self, name) < least]
        if wrong:
            raise UsageError(
                where="FeaturizerConfig",
                found=", ".join(wrong),
                expected=", ".join(f"{name} >= {least}" for name, least in minimums.items()),
                action="Raise these values.",
            )

    @property
    def max_query_tokens(self) -> int:
        """What of a query fits between its markers."""
        return self.query_length_tokens - 2

    @property
    def joint_length_tokens(self) -> int:
        """Longest joint input: a full query and a full candidate fit."""
        return self.query_length_tokens + self.block_length_tokens


@dataclass(frozen=True, slots=True)
class CandidateBlock:
    """A block as the model reads it."""

    block_id: int
    title_token_ids: TokenIds
    body_token_ids: TokenIds


NULL_DOCUMENT = CandidateBlock(NULL_BLOCK_ID, (), ())
"""Empty title and body: the credit of predicting without evidence goes there (REALM, section 3.4)."""


@dataclass(frozen=True, slots=True)
class TokenArrays:
    """Rows of token ids with markers and padding, each [R, L]."""

    ids: npt.NDArray[np.int32]
    token_types: npt.NDArray[np.int32]
    is_token: npt.NDArray[np.bool_]
    """True where there is a token, False in the padding (the attention mask)."""


@dataclass(frozen=True, slots=True)
class PretrainBatch:
    """All that a training step reads; `is_token` masks are True on tokens, False on padding."""

    query_ids_BL: npt.NDArray[np.int32]
    query_is_token_BL: npt.NDArray[np.bool_]
    candidate_ids_BNL: npt.NDArray[np.int32]
    candidate_token_types_BNL: npt.NDArray[np.int32]
    candidate_is_token_BNL: npt.NDArray[np.bool_]
    joint_ids_BNL: npt.NDArray[np.int32]
    joint_token_types_BNL: npt.NDArray[np.int32]
    joint_is_token_BNL: npt.NDArray[np.bool_]
    mask_positions_BM: npt.NDArray[np.int64]
    """Positions in the joint (and the query) input; 0 where `is_masked_BM` is False."""
    target_ids_BM: npt.NDArray[np.int64]
    """Tokens to predict there; 0 where `is_masked_BM` is False."""
    is_masked_BM: npt.NDArray[np.bool_]
    """True for a position that counts in the loss."""
    candidate_block_ids_BN: npt.NDArray[np.int64]
    """-1 for the null document: the first of every query, or there is none."""

    @property
    def num_tokens(self) -> int:
        """Tokens that a training step reads, padding left out: queries, candidates and joint inputs."""
        masks = (self.query_is_token_BL, self.candidate_is_token_BNL, self.joint_is_token_BNL)
        return sum(int(np.count_nonzero(mask)) for mask in masks)


def select_candidates(
    hit_block_ids_K: npt.NDArray[np.int64],
    *,
    trivial_block_id: int,
    num_candidates: int,
    has_null_document: bool = True,
    hit_uids: Sequence[bytes] | None = None,
    trivial_uid: bytes | None = None,
) -> npt.NDArray[np.int64] | SkipReason:
    """Block ids of a query's candidates, int64 [N]: the null document (-1), then the best hits in their order.

    The trivial candidate and padding (-1) are dropped: search `num_candidates + 1` hits, so that enough remain.
    Pass -1 for a query of no block. With `hit_uids` a second block of the same text is dropped too, the trivial
    candidate's copies included (the reference skips such an example).
    """
    seen: set[int | bytes] = {trivial_block_id, NULL_BLOCK_ID} | ({trivial_uid} if trivial_uid else set())
    kept = [NULL_BLOCK_ID] if has_null_document else []
    for hit, block_id in enumerate(hit_block_ids_K.tolist()):
        names = {block_id} if hit_uids is None else {block_id, hit_uids[hit]}
        if not names & seen:
            kept.append(block_id)
            seen |= names
    if len(kept) < num_candidates:
        return SkipReason.TOO_FEW_CANDIDATES
    return np.array(kept[:num_candidates], dtype=np.int64)


def query_arrays(queries: Sequence[TokenIds], *, length_tokens: int, special: SpecialTokens) -> TokenArrays:
    """`[CLS] query [SEP]`, [B, L] with L <= `length_tokens`."""
    return _pack([(query,) for query in queries], types=(0,), length_tokens=length_tokens, special=special)


def block_arrays(
    blocks: Sequence[tuple[TokenIds, TokenIds]], *, length_tokens: int, special: SpecialTokens
) -> TokenArrays:
    """`[CLS] title [SEP] body [SEP]` of (title, body) pairs, [R, L] with L <= `length_tokens`."""
    return _pack(blocks, types=(0, 1), length_tokens=length_tokens, special=special)


def joint_arrays(
    queries: Sequence[TokenIds],
    blocks: Sequence[tuple[TokenIds, TokenIds]],
    *,
    config: FeaturizerConfig,
    special: SpecialTokens,
) -> TokenArrays:
    """`[CLS] query [SEP] title [SEP] body [SEP]` of R queries, each with a (title, body) pair: [R, L]."""
    texts = [(query[: config.max_query_tokens], *pair) for query, pair in zip(queries, blocks, strict=True)]
    return _pack(texts, types=(0, 1, 1), length_tokens=config.joint_length_tokens, special=special)


def pretrain_batch(
    queries: Sequence[MaskedQuery],
    candidates_BN: Sequence[Sequence[CandidateBlock]],
    *,
    config: FeaturizerConfig,
    special: SpecialTokens,
) -> PretrainBatch:
    """The arrays of B queries with N candidates each, the null document first unless the configuration has none.

    Raises:
        TrainingError: A row whose first candidate is not what the configuration says, of another length than N, or
            with a mask that the query length or `max_masks` cuts off.
    """
    _check_examples(queries, candidates_BN, config)
    flat = [(block.title_token_ids, block.body_token_ids) for row in candidates_BN for block in row]
    texts = [query.token_ids[: config.max_query_tokens] for query in queries]
    query = query_arrays(texts, length_tokens=config.query_length_tokens, special=special)
    candidate = block_arrays(flat, length_tokens=config.block_length_tokens, special=special)
    repeated = [text for text in texts for _ in range(config.num_candidates)]
    joint = joint_arrays(repeated, flat, config=config, special=special)
    shape_BN = (len(queries), config.num_candidates, -1)
    return PretrainBatch(
        query_ids_BL=query.ids,
        query_is_token_BL=query.is_token,
        candidate_ids_BNL=candidate.ids.reshape(shape_BN),
        candidate_token_types_BNL=candidate.token_types.reshape(shape_BN),
        candidate_is_token_BNL=candidate.is_token.reshape(shape_BN),
        joint_ids_BNL=joint.ids.reshape(shape_BN),
        joint_token_types_BNL=joint.token_types.reshape(shape_BN),
        joint_is_token_BNL=joint.is_token.reshape(shape_BN),
        mask_positions_BM=_pad([[p + 1 for p in q.mask_positions] for q in queries]),
        target_ids_BM=_pad([q.target_ids for q in queries]),
        is_masked_BM=_pad([[1] * len(q.target_ids) for q in queries]).astype(np.bool_),
        candidate_block_ids_BN=np.array([[block.block_id for block in row] for row in candidates_BN], dtype=np.int64),
    )


def _pack(
    rows: Sequence[Sequence[TokenIds]], *, types: tuple[int, ...], length_tokens: int, special: SpecialTokens
) -> TokenArrays:
    """Segments joined with markers; what does not fit is cut off the later ones first (the reference's rule)."""
    fitted = [_fit(row, length_tokens - 1 - len(types)) for row in rows]
    lengths_R = np.array([1 + sum(len(segment) + 1 for segment in row) for row in fitted])
    width = min(-int(lengths_R.max()) // LENGTH_STEP_TOKENS * -LENGTH_STEP_TOKENS, length_tokens)
    ids = np.full((len(fitted), width), special.pad_id, dtype=np.int32)
    token_types = np.zeros_like(ids)
    ids[:, 0] = special.cls_id
    for r, row in enumerate(fitted):
        start = 1
        for segment, token_type in zip(row, types, strict=True):
            stop = start + len(segment)
            ids[r, start:stop] = segment
            ids[r, stop] = special.sep_id
            token_types[r, start : stop + 1] = token_type
            start = stop + 1
    return TokenArrays(ids, token_types, np.arange(width) < lengths_R[:, None])


def _fit(segments: Sequence[TokenIds], budget_tokens: int) -> list[TokenIds]:
    fitted: list[TokenIds] = []
    for segment in segments:
        fitted.append(segment[:budget_tokens])
        budget_tokens -= len(fitted[-1])
    return fitted


def _pad(rows: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    """To the longest row: what is padded would be projected to the vocabulary for nothing."""
    padded = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for r, row in enumerate(rows):
        padded[r, : len(row)] = row
    return padded


def _check_examples(
    queries: Sequence[MaskedQuery], candidates_BN: Sequence[Sequence[CandidateBlock]], config: FeaturizerConfig
) -> None:
    sizes_agree = len(queries) == len(candidates_BN) > 0
    wrong = [] if sizes_agree else [f"{len(queries)} queries with {len(candidates_BN)} rows of candidates"]
    for b, (query, row) in enumerate(zip(queries, candidates_BN, strict=False)):
        starts_with_null = bool(row) and row[0].block_id == NULL_BLOCK_ID
        if len(row) != config.num_candidates or starts_with_null != config.has_null_document:
            wrong.append(f"row {b} has candidates {[block.block_id for block in row]}")
        if len(query.target_ids) > config.max_masks or max(query.mask_positions, default=0) >= config.max_query_tokens:
            wrong.append(f"row {b} has masks at {list(query.mask_positions)}")
    if wrong:
        first = "the null document (-1) first" if config.has_null_document else "none the null document (-1)"
        raise TrainingError(
            where="pretrain_batch",
            found="; ".join(wrong),
            expected=f"for each query {config.num_candidates} candidates, {first}, "
            f"and at most {config.max_masks} masks before position {config.max_query_tokens}",
            action="Make queries with `masked_query`, candidates with `select_candidates`, of this same configuration.",
        )
