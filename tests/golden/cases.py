"""What each model class is called with.

Padding is poisoned: padded places hold ordinary token ids, so that a mask that leaks changes the outputs.
Shapes: B queries, N candidates, L tokens, H hidden, S blocks found by the searcher, R blocks read by the reader.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from golden.blocks import ANSWERS, QUESTIONS
from golden.frozen import integers, real, uniform

Inputs = dict[str, Any]
_NUM_QUERIES = 2
_LENGTH = 9
_JOINT_LENGTH = 12
_READER_LENGTH = 20
_QUESTION_LENGTH = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One call of a model."""

    inputs: Inputs
    training: bool = False


def text(name: str, shape: tuple[int, ...], c: Inputs) -> Inputs:
    """Ids, mask and token types of this shape; the first row is full, the others end somewhere in their second half."""
    lengths = integers(f"{name} lengths", shape[:-1], shape[-1] // 2, shape[-1] + 1)
    lengths.flat[0] = shape[-1]
    return {
        "input_ids": integers(f"{name} ids", shape, 5, c.get("vocab_size", 30522)),
        "attention_mask": (np.arange(shape[-1]) < lengths[..., None]).astype(np.int64),
        "token_type_ids": integers(f"{name} types", shape, 0, c.get("type_vocab_size", 2)),
    }


def _options(name: str, rows: int, length: int, c: Inputs) -> dict[str, Inputs]:
    """What every class with an encoder takes beside its text."""
    heads, layers = c.get("num_attention_heads", 12), c.get("num_hidden_layers", 12)
    halves = np.round(uniform(f"{name} heads", (layers, heads)) * 2) / 2
    positions = integers(f"{name} positions", (rows, length), 0, c.get("max_position_embeddings", 512))
    return {
        "head mask": {"head_mask": halves[0].astype(np.float32)},
        "head mask per layer": {"head_mask": halves.astype(np.float32)},
        "position ids": {"position_ids": positions},
    }


def _embeds(name: str, shape: tuple[int, ...], c: Inputs) -> Any:
    return real(name, (*shape, c.get("hidden_size", 768)), 0.3)


def _without(inputs: Inputs, *names: str) -> Inputs:
    return {name: value for name, value in inputs.items() if name not in names}


_EVERYTHING = {"output_attentions": True, "output_hidden_states": True}


def embedder_cases(c: Inputs) -> dict[str, Case]:
    """Cases of RealmEmbedder."""
    shape = (_NUM_QUERIES, _LENGTH)
    t = text("embedder", shape, c)
    embeds = _without(t, "input_ids") | {"inputs_embeds": _embeds("embedder embeds", shape, c)}
    mask_per_row = np.tril(np.ones((_LENGTH, _LENGTH), np.int64))[None].repeat(_NUM_QUERIES, 0)
    inputs = {
        "padded": t,
        "ids only": {"input_ids": t["input_ids"]},
        "without token types": _without(t, "token_type_ids"),
        "without mask": _without(t, "attention_mask"),
        "mask per row": t | {"attention_mask": mask_per_row},
        "inputs embeds": embeds,
        "everything": t | _EVERYTHING,
        "attentions": t | {"output_attentions": True},
        "everything with head mask": t | _EVERYTHING | _options("embedder", *shape, c)["head mask per layer"],
        "tuple": t | {"return_dict": False},
        "tuple of everything": t | _EVERYTHING | {"return_dict": False},
        **{name: t | option for name, option in _options("embedder", *shape, c).items()},
    }
    return {name: Case(inputs=i) for name, i in inputs.items()}


def scorer_cases(c: Inputs) -> dict[str, Case]:
    """Cases of RealmScorer, with one embedder or two."""
    num_candidates = c.get("num_candidates", 8)
    shape = (_NUM_QUERIES, num_candidates, _LENGTH + 2)
    query, candidates = text("query", (_NUM_QUERIES, _LENGTH), c), text("candidate", shape, c)
    flat = {name: value.reshape(-1, shape[-1]) for name, value in candidates.items()}
    rows = (shape[0] * shape[1], shape[2])
    given = query | _as_candidates(candidates)
    same_length = query | _as_candidates(text("candidate", (_NUM_QUERIES, num_candidates, _LENGTH), c))
    embeds = _without(flat, "input_ids") | {"inputs_embeds": _embeds("candidate embeds", rows, c)}
    query_embeds = {"inputs_embeds": _embeds("query embeds", (_NUM_QUERIES, _LENGTH), c)}
    options = _options("scorer", 1, _LENGTH, c)
    inputs = {
        "padded": given,
        "flattened": query | _as_candidates(flat),
        "ids only": {name: given[name] for name in ("input_ids", "candidate_input_ids")},
        "without token types": _without(given, "token_type_ids", "candidate_token_type_ids"),
        "candidate embeds": query | _as_candidates(embeds),
        "query embeds": _without(given, "input_ids") | query_embeds,
        "head mask": given | options["head mask"],
        "head mask per layer": given | options["head mask per layer"],
        "position ids": same_length | options["position ids"],
        "everything": given | _EVERYTHING,
        "tuple": given | {"return_dict": False},
    }
    return {name: Case(inputs=i) for name, i in inputs.items()}


def _as_candidates(inputs: Inputs) -> Inputs:
    return {f"candidate_{name}": value for name, value in inputs.items()}


def knowledge_aug_encoder_cases(c: Inputs) -> dict[str, Case]:
    """Cases of RealmKnowledgeAugEncoder."""
    shape = (_NUM_QUERIES, c.get("num_candidates", 8), _JOINT_LENGTH)
    rows = (shape[0] * shape[1], shape[2])
    t = text("joint", shape, c)
    flat = {name: value.reshape(rows) for name, value in t.items()}
    embeds = _without(flat, "input_ids") | {"inputs_embeds": _embeds("joint embeds", rows, c)}
    targets = masked_tokens(c)
    loss = t | _without(targets, "mlm_mask")
    inputs = {
        "padded": t,
        "flattened": flat,
        "ids only": {"input_ids": t["input_ids"]},
        "without token types": _without(t, "token_type_ids"),
        "inputs embeds": embeds,
        "relevance without labels": t | {"relevance_score": targets["relevance_score"]},
        "loss": loss,
        "loss with mask": t | targets,
        "loss of every token": loss | {"labels": integers("labels", (_NUM_QUERIES, _JOINT_LENGTH), 5, 200)},
        "loss of no token": t | targets | {"mlm_mask": np.zeros_like(targets["mlm_mask"])},
        "loss, flattened": flat | targets,
        "loss, inputs embeds": embeds | targets,
        "loss, without token types": _without(t, "token_type_ids") | targets,
        "loss, everything": t | targets | _EVERYTHING,
        "tuple": t | {"return_dict": False},
        "tuple with loss": t | targets | {"return_dict": False},
        "tuple of everything": t | targets | _EVERYTHING | {"return_dict": False},
        **{name: t | option for name, option in _options("joint", *rows, c).items()},
        **{f"loss, {name}": t | targets | option for name, option in _options("joint", *rows, c).items()},
    }
    return {name: Case(inputs=i) for name, i in inputs.items()}


def masked_tokens(c: Inputs) -> Inputs:
    """Labels at some positions, -100 at the others; a mask that leaves out one of the labels; a relevance."""
    labels = np.full((_NUM_QUERIES, _JOINT_LENGTH), -100)
    labels[0, [1, 3, 4]] = integers("labels 0", (3,), 5, c.get("vocab_size", 30522))
    labels[1, [2, 5]] = integers("labels 1", (2,), 5, c.get("vocab_size", 30522))
    mask = (labels != -100).astype(np.int64)
    mask[0, 3] = 0
    relevance = real("relevance", (_NUM_QUERIES, c.get("num_candidates", 8)), 2.0)
    return {"labels": labels, "mlm_mask": mask, "relevance_score": relevance}


def reader_cases(c: Inputs) -> dict[str, Case]:
    """Cases of RealmReader."""
    t = evidence(c)
    rows = t["input_ids"].shape
    embeds = _without(t, "input_ids") | {"inputs_embeds": _embeds("evidence embeds", rows, c)}
    gold = answers(c)
    inputs = {
        "prediction": t,
        "prediction, inputs embeds": embeds,
        "prediction, without mask": _without(t, "attention_mask"),
        "prediction, everything": t | _EVERYTHING,
        "answers without positions": t | {"has_answers": gold["has_answers"]},
        "answers": t | gold,
        "answers beyond the reader's beam": t | _kept(gold, np.arange(len(gold["has_answers"])) >= rows[0]),
        "no answers": t | _kept(gold, np.zeros(len(gold["has_answers"]), bool)),
        "end beyond the sequence": t | gold | {"end_positions": _moved(gold["end_positions"], [0, -1])},
        "everything beyond the sequence": t
        | gold
        | {name: _moved(gold[name], slice(None)) for name in ("start_positions", "end_positions")},
        "too wide": t | gold | {"end_positions": gold["start_positions"] + c.get("max_span_width", 10)},
        "answers, everything": t | gold | _EVERYTHING,
        "tuple": t | {"return_dict": False},
        "tuple with answers": t | gold | {"return_dict": False},
        "tuple of everything": t | gold | _EVERYTHING | {"return_dict": False},
        **{f"answers, {name}": t | gold | option for name, option in _options("evidence", *rows, c).items()},
    }
    return {name: Case(inputs=i) for name, i in inputs.items()}


def evidence(c: Inputs) -> Inputs:
    """Questions with blocks [R, L], and the mask of block tokens and the relevance of all S blocks."""
    shape = (c.get("searcher_beam_size", 5000), _READER_LENGTH)
    t = text("evidence", shape, c)
    t["token_type_ids"] = np.tile((np.arange(_READER_LENGTH) >= _QUESTION_LENGTH).astype(np.int64), (shape[0], 1))
    last = t["attention_mask"] * np.arange(_READER_LENGTH) == t["attention_mask"].sum(1, keepdims=True) - 1
    block_mask = (t["token_type_ids"] * t["attention_mask"]).astype(bool) & ~last
    read = {name: value[: c.get("reader_beam_size", 5)] for name, value in t.items()}
    return read | {"block_mask": block_mask, "relevance_score": real("block relevance", shape[:1], 2.0)}


def answers(c: Inputs) -> Inputs:
    """Up to three answers in each of S blocks, none in every second one; -1 where there is none."""
    shape = (c.get("searcher_beam_size", 5000), 3)
    starts = integers("starts", shape, _QUESTION_LENGTH, _READER_LENGTH // 2 - 1)
    ends = starts + integers("widths", shape, 0, min(3, c.get("max_span_width", 10)))
    missing = integers("missing", shape, 0, 2).astype(bool)
    missing[:, 0] = False
    missing[1::2] = True
    return {
        "start_positions": np.where(missing, -1, starts),
        "end_positions": np.where(missing, -1, ends),
        "has_answers": ~missing.all(1),
    }


def _kept(gold: Inputs, blocks: Any) -> Inputs:
    """Answers in these blocks only, in all of them."""
    starts = np.where(blocks[:, None], np.maximum(gold["start_positions"], _QUESTION_LENGTH), -1)
    return {"start_positions": starts, "end_positions": starts, "has_answers": blocks}


def _moved(positions: Any, blocks: Any) -> Any:
    moved = positions.copy()
    moved[blocks] += _READER_LENGTH
    return moved


def open_qa_cases(tokenizer: Callable[..., Any]) -> dict[str, Case]:
    """Cases of RealmForOpenQA: questions and answers in the words of its retriever's tokenizer."""
    questions = {name: dict(tokenizer([q], return_tensors="np")) for name, q in QUESTIONS.items()}
    gold = {name: {"answer_ids": tokenizer(a, add_special_tokens=False)["input_ids"]} for name, a in ANSWERS.items()}
    padded = dict(tokenizer([QUESTIONS["short"]], padding="max_length", max_length=14, return_tensors="np"))
    short = questions["short"]
    inputs = {
        **questions,
        **{f"{name}, answered": q | gold["several"] for name, q in questions.items()},
        "padded": padded | gold["one"],
        "ids only": {"input_ids": short["input_ids"]} | gold["frequent"],
        "absent answer": short | gold["absent"],
        "tuple": short | {"return_dict": False},
        "tuple, answered": short | gold["frequent"] | {"return_dict": False},
    }
    trained = {f"training, {name}": Case(inputs=short | answer, training=True) for name, answer in gold.items()}
    return {name: Case(inputs=i) for name, i in inputs.items()} | trained
