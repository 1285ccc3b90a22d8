"""Models and their runs. `library` is transformers 4.40.2 or realm_core: both have the same classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from golden import cases
from golden.blocks import ANSWERS, QUESTIONS, block_embeddings, block_records
from golden.cases import Case
from golden.configurations import CONFIGURATIONS, VOCABULARY, WEIGHT_STD
from golden.frozen import canonical_name, fill
from golden.outputs import Arrays, named_arrays
from numpy.typing import NDArray
from torch import Tensor, nn

CLASSES = {
    "embedder": "RealmEmbedder",
    "scorer": "RealmScorer",
    "two_embedder_scorer": "RealmScorer",
    "knowledge_aug_encoder": "RealmKnowledgeAugEncoder",
    "reader": "RealmReader",
    "open_qa": "RealmForOpenQA",
}
_MAKERS = {
    "embedder": cases.embedder_cases,
    "scorer": cases.scorer_cases,
    "two_embedder_scorer": cases.scorer_cases,
    "knowledge_aug_encoder": cases.knowledge_aug_encoder_cases,
    "reader": cases.reader_cases,
}
LOSSES = ("masked_language_model", "reader", "open_qa")
_NUM_GRADIENT_VALUES = 8

BASE_CASES = {
    "embedder": ["padded", "everything", "head mask per layer"],
    "scorer": ["padded", "position ids"],
    "two_embedder_scorer": [],
    "knowledge_aug_encoder": ["loss with mask", "loss of every token"],
    "reader": ["prediction, everything", "answers"],
    "open_qa": ["short", "training, several"],
}
"""Twelve layers of 768 take seconds: each class in its plainest uses."""

Maker = Callable[[Any, str, str], Any]
"""Makes a model of a library, a kind and a configuration; tests keep the last ones."""


def make_config(library: Any, name: str) -> Any:
    """The configuration `tiny`, `small` or `base`."""
    return library.RealmConfig(**CONFIGURATIONS[name])


def make_model(library: Any, kind: str, name: str) -> Any:
    """A model with the frozen weights, in evaluation mode."""
    config = make_config(library, name)
    arguments = []
    if kind == "two_embedder_scorer":
        arguments = [library.RealmEmbedder(config)]
    if kind == "open_qa":
        arguments = [library.RealmRetriever(block_records(), library.RealmTokenizerFast(str(VOCABULARY)))]
    model = getattr(library, CLASSES[kind])(config, *arguments)
    fill(model, WEIGHT_STD[name])
    if kind == "open_qa":
        model.block_emb = torch.from_numpy(block_embeddings(config.retriever_proj_size))
    return model.eval()


def make_cases(kind: str, name: str, library: Any) -> dict[str, Case]:
    """The cases of a kind of model in this configuration."""
    if kind == "open_qa":
        found = cases.open_qa_cases(library.RealmTokenizerFast(str(VOCABULARY)))
    else:
        found = _MAKERS[kind](CONFIGURATIONS[name])
    return {case: found[case] for case in BASE_CASES[kind]} if name == "base" else found


def tensors(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays as tensors; everything else as it is."""
    return {name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in inputs.items()}


def run(model: Any, case: Case, **more: Any) -> Arrays:
    """The outputs of a case."""
    model.train(case.training)
    with torch.no_grad():
        return named_arrays(model(**tensors(case.inputs), **more))


def loss_and_models(
    library: Any, loss: str, name: str, make: Maker = make_model
) -> tuple[Tensor, dict[str, nn.Module]]:
    """A loss in training mode and the models that it trains."""
    if loss == "masked_language_model":
        return _masked_language_model(library, name, make)
    model = make(library, loss, name).train()
    if loss == "reader":
        c = CONFIGURATIONS[name]
        return model(**tensors(cases.evidence(c) | cases.answers(c))).loss, {"reader": model}
    tokenizer = model.retriever.tokenizer
    question = tokenizer([QUESTIONS["short"]], return_tensors="pt")
    answer_ids = tokenizer(ANSWERS["frequent"], add_special_tokens=False)["input_ids"]
    return model(**question, answer_ids=answer_ids).reader_output.loss, {"open_qa": model}


def _masked_language_model(library: Any, name: str, make: Maker) -> tuple[Tensor, dict[str, nn.Module]]:
    """The scorer's relevance enters the encoder's loss, as in pre-training; `tiny` has an embedder for queries."""
    kind = "two_embedder_scorer" if name == "tiny" else "scorer"
    scorer, encoder = make(library, kind, name).train(), make(library, "knowledge_aug_encoder", name).train()
    relevance = scorer(**tensors(make_cases(kind, name, library)["padded"].inputs)).relevance_score
    inputs = make_cases("knowledge_aug_encoder", name, library)["loss with mask"].inputs
    loss = encoder(**tensors(inputs | {"relevance_score": relevance})).loss
    return loss, {"scorer": scorer, "encoder": encoder}


def gradients(library: Any, loss: str, name: str, make: Maker = make_model) -> tuple[float, Arrays]:
    """The loss; and for each parameter the norm of its gradient and eight values of it, NaN where it gets none."""
    value, models = loss_and_models(library, loss, name, make)
    value.backward()
    found = {
        f"{model_name}.{canonical_name(parameter_name)}": _summary(parameter.grad)
        for model_name, model in models.items()
        for parameter_name, parameter in model.named_parameters()
    }
    for model in models.values():
        model.zero_grad()
    return value.item(), found


def _summary(gradient: Tensor | None) -> NDArray[np.float32]:
    if gradient is None:
        return np.full(1 + _NUM_GRADIENT_VALUES, np.nan, np.float32)
    flat = gradient.flatten().double().numpy()
    places = np.linspace(0, flat.size - 1, _NUM_GRADIENT_VALUES).round().astype(np.int64)
    return np.concatenate([[np.linalg.norm(flat)], flat[places]]).astype(np.float32)


def signature(library: Any, kind: str) -> list[str]:
    """The names of the arguments of `forward`, in order."""
    return list(inspect.signature(getattr(library, CLASSES[kind]).forward).parameters)[1:]
