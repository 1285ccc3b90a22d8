"""What both sides of a comparison run: cases, sizes and inputs. Needs numpy only, so that both environments import it.

Shapes: B queries, N candidates, L tokens, S blocks that the searcher returns, R rows, D projection.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

Arrays = dict[str, np.ndarray]
Mode = Literal["forward", "step"]

CLS, SEP, MASK = 101, 102, 103
FIRST_WORD = 1000
"""Token ids below it are special in BERT's vocabulary."""
MAX_MASKS = 10
NUM_QUESTIONS_OF_BATCH = 8

LEVELS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
BLOCK_TOKENS = (16, 70, 140, 222, 265, 288)
"""Quantiles of the blocks of a Wikipedia at `LEVELS`, markers included: mean 195."""
SENTENCE_TOKENS = (13, 15, 20, 28, 38, 60)
"""Quantiles of the sentences that pre-training masks, markers included."""
QUESTION_TOKENS = (9, 10, 11, 12, 13, 24)
"""Quantiles of the questions of NQ-open, markers included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How big the models and their inputs are; the defaults are BERT-base at the widths of the REALM paper."""

    config: dict[str, Any] = field(default_factory=dict)
    """Fields of RealmConfig that depart from its defaults."""
    num_queries: int = 1
    num_blocks: int = 8
    """Blocks of one batch of the embedder."""
    num_candidates: int = 8
    query_tokens: int = 96
    block_tokens: int = 288
    joint_tokens: int = 384
    reader_tokens: int = 320
    reader_beam_size: int = 5
    searcher_beam_size: int = 64
    num_block_records: int = 100_000
    num_words: int = 2_000
    """Size of the vocabulary that the records of open QA are written in."""

    @property
    def vocab_size(self) -> int:
        """V."""
        return int(self.config.get("vocab_size", 30522))

    def warm_up(self) -> Sizes:
        """The same models, with inputs that cost next to nothing."""
        return replace(
            self, num_queries=1, num_blocks=1, query_tokens=16, block_tokens=16, joint_tokens=32, reader_tokens=32
        )


FULL = Sizes()
QUICK = Sizes(
    config={
        "vocab_size": 2048,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "span_hidden_size": 16,
    },
    num_blocks=2,
    query_tokens=24,
    block_tokens=48,
    joint_tokens=72,
    reader_tokens=64,
    searcher_beam_size=8,
    num_block_records=500,
    num_words=200,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One row of the tables: a class, what is done with it, and on which inputs."""

    name: str
    class_name: str
    mode: Mode
    is_headline: bool = False
    """The step of the knowledge-augmented encoder without padding: 2 queries x 8 candidates x 384 tokens."""
    num_questions: int = 1
    """Open QA only: questions of one run, which 4.40.2 has to answer one by one."""

    @property
    def enters_means(self) -> bool:
        """Whether the geometric means count it: one case per class and mode, at real lengths."""
        return not self.is_headline and self.num_questions == 1

    def sizes(self, sizes: Sizes) -> Sizes:
        """The sizes of this case."""
        return replace(sizes, num_queries=2) if self.is_headline else sizes


def _both(prefix: str, class_name: str) -> list[Case]:
    modes: tuple[Mode, Mode] = ("forward", "step")
    return [Case(name=f"{prefix}/{mode}", class_name=class_name, mode=mode) for mode in modes]


HEADLINE = Case(
    name="knowledge_aug_encoder_full_width/step", class_name="RealmKnowledgeAugEncoder", mode="step", is_headline=True
)
OPEN_QA_BATCH = Case(
    name=f"open_qa_{NUM_QUESTIONS_OF_BATCH}_questions/forward",
    class_name="RealmForOpenQA",
    mode="forward",
    num_questions=NUM_QUESTIONS_OF_BATCH,
)
CASES: tuple[Case, ...] = (
    *_both("embedder", "RealmEmbedder"),
    *_both("scorer", "RealmScorer"),
    *_both("knowledge_aug_encoder", "RealmKnowledgeAugEncoder"),
    *_both("reader", "RealmReader"),
    *_both("open_qa", "RealmForOpenQA"),
    OPEN_QA_BATCH,
    HEADLINE,
)


def model_inputs(case: Case, sizes: Sizes) -> Arrays:
    """The arguments of `forward` by name, the same on every call; those of open QA are in `open_qa_inputs`."""
    sizes = case.sizes(sizes)
    rng = np.random.RandomState(0)
    if case.class_name == "RealmEmbedder":
        return padded(rng, spread(rng, BLOCK_TOKENS, sizes.num_blocks, sizes.block_tokens), sizes.block_tokens, sizes)
    if case.class_name == "RealmScorer":
        return _scorer_inputs(rng, sizes)
    if case.class_name == "RealmKnowledgeAugEncoder":
        return _encoder_inputs(rng, sizes, case)
    return _reader_inputs(rng, sizes, case.mode)


def spread(rng: np.random.RandomState, quantiles: tuple[int, ...], count: int, longest: int) -> np.ndarray:
    """So many lengths that spread evenly over the distribution, in random order, none above `longest`."""
    levels = (np.arange(count) + 0.5) / count
    lengths = np.interp(levels, LEVELS, quantiles).round().astype(np.int64)
    return rng.permutation(np.minimum(lengths, longest))


def padded(rng: np.random.RandomState, lengths: np.ndarray, width: int, sizes: Sizes) -> Arrays:
    """`[CLS] words [SEP]` of the given lengths, padded on the right to `width`: three arrays [count, width]."""
    is_token = np.arange(width) < lengths[:, None]
    ids = rng.randint(FIRST_WORD, sizes.vocab_size, size=is_token.shape)
    ids[:, 0] = CLS
    ids[np.arange(len(lengths)), lengths - 1] = SEP
    return {
        "input_ids": ids * is_token,
        "attention_mask": is_token.astype(np.int64),
        "token_type_ids": np.zeros_like(ids),
    }


def _scorer_inputs(rng: np.random.RandomState, sizes: Sizes) -> Arrays:
    shape = (sizes.num_queries, sizes.num_candidates, -1)
    queries = padded(
        rng, spread(rng, SENTENCE_TOKENS, sizes.num_queries, sizes.query_tokens), sizes.query_tokens, sizes
    )
    num_blocks = sizes.num_queries * sizes.num_candidates
    blocks = padded(rng, spread(rng, BLOCK_TOKENS, num_blocks, sizes.block_tokens), sizes.block_tokens, sizes)
    return queries | {f"candidate_{name}": array.reshape(shape) for name, array in blocks.items()}


def _encoder_inputs(rng: np.random.RandomState, sizes: Sizes, case: Case) -> Arrays:
    num_queries, num_candidates, width = sizes.num_queries, sizes.num_candidates, sizes.joint_tokens
    query_tokens = spread(rng, SENTENCE_TOKENS, num_queries, sizes.query_tokens)
    if case.is_headline:
        block_tokens = np.full((num_queries, num_candidates), width)
    else:
        block_tokens = spread(rng, BLOCK_TOKENS, num_queries * num_candidates, sizes.block_tokens)
    lengths = np.minimum(query_tokens[:, None] + block_tokens.reshape(num_queries, -1) - 1, width)
    joint = _joined(rng, query_tokens.repeat(num_candidates), lengths.ravel(), width, sizes)
    joint = {name: array.reshape(num_queries, num_candidates, width) for name, array in joint.items()}
    return joint if case.mode == "forward" else joint | _masked(rng, joint["input_ids"], query_tokens)


def _joined(
    rng: np.random.RandomState, query_tokens: np.ndarray, lengths: np.ndarray, width: int, sizes: Sizes
) -> Arrays:
    """`[CLS] query [SEP] block [SEP]`, of which the block has token type 1."""
    joint = padded(rng, lengths, width, sizes)
    joint["input_ids"][np.arange(len(lengths)), query_tokens - 1] = SEP
    joint["token_type_ids"] = joint["attention_mask"] * (np.arange(width) >= query_tokens[:, None])
    return joint


def _masked(rng: np.random.RandomState, input_ids_BNL: np.ndarray, query_tokens: np.ndarray) -> Arrays:
    """Masks words of each query in place, the same for all its candidates; gives labels, their mask and relevances."""
    labels_BL = np.full(input_ids_BNL[:, 0].shape, -100)
    for query, num_tokens in enumerate(query_tokens):
        num_masks = min(MAX_MASKS, num_tokens - 2)
        positions = rng.choice(np.arange(1, num_tokens - 1), num_masks, replace=False)
        labels_BL[query, positions] = rng.randint(FIRST_WORD, input_ids_BNL.max(), num_masks)
        input_ids_BNL[query][:, positions] = MASK
    relevance_BN = rng.randn(*input_ids_BNL.shape[:2]).astype(np.float32)
    return {"relevance_score": relevance_BN, "labels": labels_BL, "mlm_mask": (labels_BL >= 0).astype(np.int64)}


def _reader_inputs(rng: np.random.RandomState, sizes: Sizes, mode: Mode) -> Arrays:
    num_found = sizes.reader_beam_size if mode == "forward" else sizes.searcher_beam_size
    width, longest = sizes.reader_tokens, min(sizes.block_tokens, sizes.reader_tokens - max(QUESTION_TOKENS))
    question_tokens = np.full(num_found, spread(rng, QUESTION_TOKENS, 1, width // 2)[0])
    block_tokens = spread(rng, BLOCK_TOKENS, num_found, max(longest, 4))
    found = _joined(rng, question_tokens, question_tokens + block_tokens - 1, width, sizes)
    words_SL = (found["token_type_ids"] == 1) & (found["input_ids"] != SEP)
    relevance_S = np.sort(rng.randn(num_found).astype(np.float32))[::-1].copy()
    read = {name: array[: sizes.reader_beam_size] for name, array in found.items()}
    answers = {} if mode == "forward" else _answers(rng, words_SL)
    return read | {"relevance_score": relevance_S, "block_mask": words_SL} | answers


def _answers(rng: np.random.RandomState, words_SL: np.ndarray) -> Arrays:
    """One answer of up to three tokens in every other block, the first included."""
    has_answers_S = np.arange(len(words_SL)) % 2 == 0
    first_S, last_S = words_SL.argmax(1), words_SL.shape[1] - 1 - words_SL[:, ::-1].argmax(1)
    start_S = rng.randint(first_S, last_S + 1)
    end_S = np.minimum(start_S + 2, last_S)
    positions = [np.where(has_answers_S, position_S, -1)[:, None] for position_S in (start_S, end_S)]
    return {"start_positions": positions[0], "end_positions": positions[1], "has_answers": has_answers_S}


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenQAInputs:
    """Records, questions and answers in words of a small vocabulary, one word piece each."""

    vocabulary: tuple[str, ...]
    block_records: np.ndarray
    """Bytes, one per row of `block_emb`."""
    block_emb: np.ndarray
    """[R, D]."""
    questions: tuple[str, ...]
    answers: tuple[str, ...]


def open_qa_inputs(case: Case, sizes: Sizes) -> OpenQAInputs:
    """The world of open QA; records differ in their last word, and some hundred times in the words before it."""
    rng = np.random.RandomState(1)
    words = [f"w{number}" for number in range(sizes.num_words)]
    lengths = spread(rng, BLOCK_TOKENS, 400, sizes.block_tokens) - 3
    texts = [" ".join(rng.choice(words, length)) for length in lengths]
    records = [f"{texts[rng.randint(len(texts))]} {words[row % len(words)]}" for row in range(sizes.num_block_records)]
    question_lengths = spread(rng, QUESTION_TOKENS, NUM_QUESTIONS_OF_BATCH, sizes.reader_tokens // 3) - 2
    questions = [" ".join(rng.choice(words, length)) for length in question_lengths]
    return OpenQAInputs(
        vocabulary=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words),
        block_records=np.array([record.encode() for record in records], dtype=object),
        block_emb=rng.randn(sizes.num_block_records, int(sizes.config.get("retriever_proj_size", 128))).astype("f4"),
        questions=tuple(questions[: case.num_questions]),
        answers=tuple(words[:20]),
    )
