"""Turns any BERT checkpoint into the tensors of a REALM model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from realm_core.errors import EncoderError
from realm_core.modeling.configuration import RealmConfig
from realm_core.modeling.weights import read_config, read_tensors, resolve_directory

Pooler = Literal["checkpoint", "identity"]

_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_BERT_DEFAULTS: dict[str, Any] = {
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
}
_MLM_HEAD = "cls.predictions."


@dataclass(frozen=True, kw_only=True, slots=True)
class BertCheckpoint:
    """A BERT checkpoint under REALM's names."""

    where: str
    """The path or hub id it came from, for error messages."""
    config: RealmConfig
    tensors: dict[str, Tensor]
    """`realm.*` without a pooler if there is none, and `cls.predictions.*` if there is a masked-LM head; fp32."""

    @property
    def has_pooler(self) -> bool:
        """Whether the checkpoint carries a pooler."""
        return "realm.pooler.dense.weight" in self.tensors

    @property
    def has_mlm_head(self) -> bool:
        """Whether the checkpoint carries a masked language model."""
        return any(name.startswith(_MLM_HEAD) for name in self.tensors)


def read_bert(path_or_id: str | Path, overrides: dict[str, Any]) -> BertCheckpoint:
    """Reads a BertModel, BertForMaskedLM or BertForPreTraining directory or hub model.

    Args:
        path_or_id: the directory or hub id.
        overrides: fields of RealmConfig that replace those of the checkpoint or that BERT has not.

    Raises:
        EncoderError: it cannot be read or is of another architecture.
    """
    directory = resolve_directory(path_or_id)
    fields = read_config(directory)
    config = _realm_config(directory, fields, overrides)
    tensors = {_realm_name(name): tensor for name, tensor in read_tensors(directory).items()}
    kept = {name: tensor.float() for name, tensor in tensors.items() if name.startswith(("realm.", _MLM_HEAD))}
    return BertCheckpoint(where=str(path_or_id), config=config, tensors=_with_both_biases(kept))


def check_is_bert(where: str | Path, fields: dict[str, Any]) -> None:
    """Refuses a configuration of another architecture; very old BERT checkpoints name none, and pass.

    Raises:
        EncoderError: `model_type` is not "bert".
    """
    model_type = fields.get("model_type", "bert")
    if model_type != "bert":
        raise EncoderError(
            where=str(where),
            found=f"model_type {model_type!r} in config.json",
            expected="'realm' or 'bert'",
            action="Use a REALM embedder or a BERT checkpoint, for example google-bert/bert-base-uncased.",
        )


def _realm_config(where: Path, fields: dict[str, Any], overrides: dict[str, Any]) -> RealmConfig:
    check_is_bert(where, fields)
    missing = [name for name in _SIZES if name not in fields]
    if missing:
        raise _unusable(where, f"a config.json without {', '.join(missing)}", "the sizes of a BERT model")
    taken = {name: fields[name] for name in _SIZES} | {n: fields.get(n, d) for n, d in _BERT_DEFAULTS.items()}
    try:
        return RealmConfig(**{**taken, **overrides})
    except (ValueError, TypeError) as error:
        raise _unusable(where, str(error), "a BERT configuration") from error


def _realm_name(name: str) -> str:
    name = name.removeprefix("bert.")
    if name.endswith(("LayerNorm.gamma", "LayerNorm.beta")):  # checkpoints converted before 2019
        name = name.removesuffix("gamma").removesuffix("beta") + ("weight" if name.endswith("gamma") else "bias")
    return f"realm.{name}" if name.startswith(("embeddings.", "encoder.", "pooler.")) else name


def _with_both_biases(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    bias, decoder_bias = f"{_MLM_HEAD}bias", f"{_MLM_HEAD}decoder.bias"
    for known, other in ((bias, decoder_bias), (decoder_bias, bias)):
        if known in tensors:
            tensors.setdefault(other, tensors[known])
    return tensors


def pooler_tensors(checkpoint: BertCheckpoint, pooler: Pooler) -> dict[str, Tensor]:
    """The pooler asked for; the identity where the checkpoint has none."""
    names = ("realm.pooler.dense.weight", "realm.pooler.dense.bias")
    if pooler == "checkpoint" and checkpoint.has_pooler:
        return {name: checkpoint.tensors[name] for name in names if name in checkpoint.tensors}
    hidden = checkpoint.config.hidden_size
    return dict(zip(names, (torch.eye(hidden), torch.zeros(hidden)), strict=True))


def mlm_head_tensors(checkpoint: BertCheckpoint, seed: int) -> dict[str, Tensor]:
    """The masked-LM head of the checkpoint, or a new one tied to its word embedding and drawn from the seed."""
    words = checkpoint.tensors.get("realm.embeddings.word_embeddings.weight")
    tied = {} if words is None else {f"{_MLM_HEAD}decoder.weight": words}
    if checkpoint.has_mlm_head:
        return tied | {name: t for name, t in checkpoint.tensors.items() if name.startswith(_MLM_HEAD)}
    hidden, vocabulary = checkpoint.config.hidden_size, checkpoint.config.vocab_size
    return tied | {
        f"{_MLM_HEAD}transform.dense.weight": normal((hidden, hidden), checkpoint.config.initializer_range, seed),
        f"{_MLM_HEAD}transform.dense.bias": torch.zeros(hidden),
        f"{_MLM_HEAD}transform.LayerNorm.weight": torch.ones(hidden),
        f"{_MLM_HEAD}transform.LayerNorm.bias": torch.zeros(hidden),
        f"{_MLM_HEAD}bias": torch.zeros(vocabulary),
        f"{_MLM_HEAD}decoder.bias": torch.zeros(vocabulary),
    }


def projection_tensors(config: RealmConfig, seed: int) -> dict[str, Tensor]:
    """A new projection to D dimensions, drawn from the seed."""
    width = config.retriever_proj_size
    return {
        "cls.dense.weight": normal((width, config.hidden_size), config.initializer_range, seed),
        "cls.dense.bias": torch.zeros(width),
        "cls.LayerNorm.weight": torch.ones(width),
        "cls.LayerNorm.bias": torch.zeros(width),
    }


def normal(shape: tuple[int, int], std: float, seed: int) -> Tensor:
    """Normal values that depend on the arguments alone, not on PyTorch's global generator."""
    return torch.empty(shape).normal_(0.0, std, generator=torch.Generator().manual_seed(seed))


def _unusable(where: Path, found: str, expected: str) -> EncoderError:
    return EncoderError(where=str(where), found=found, expected=expected, action="Use another BERT checkpoint.")
