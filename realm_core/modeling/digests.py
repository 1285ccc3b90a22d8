"""Names for encoders and tokenizers: two that give the same embeddings have the same digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from realm_core.modeling.embedder import RealmEmbedder

_CONFIG_FIELDS = ("hidden_act", "layer_norm_eps", "num_attention_heads")
"""Fields that change an embedding and are not seen in any tensor's shape."""
_NOT_READ = "cls.predictions."


def encoder_digest(embedder: RealmEmbedder, query_embedder: RealmEmbedder | None = None) -> str:
    """SHA-256 (hex) of what an embedding depends on: configuration fields and tensors by name.

    With an embedder of its own for queries the digest names the pair.

    Neither the files' layout nor their place, dropout, the attention implementation or the masked-LM head enters.
    The dtype does: bf16 weights are another encoder.
    """
    if query_embedder is not None:
        pair = {"embedder": encoder_digest(embedder), "query_embedder": encoder_digest(query_embedder)}
        return hashlib.sha256(_canonical(pair)).hexdigest()
    fields = {name: getattr(embedder.config, name) for name in _CONFIG_FIELDS}
    return digest_of_weights(
        fields, {name: tensor for name, tensor in embedder.state_dict().items() if not name.startswith(_NOT_READ)}
    )


def digest_of_weights(fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of configuration fields and of tensors with their names, types and shapes, in the names' order."""
    digest = hashlib.sha256(_canonical(fields))
    for name, tensor in sorted(tensors.items()):
        digest.update(_canonical([name, str(tensor.dtype), list(tensor.shape)]))
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """SHA-256 (hex) of the vocabulary in id order and of how text is normalized and split into pieces.

    Truncation, padding and the template of special tokens do not enter: this project sets them itself.
    """
    settings = json.loads(tokenizer.to_str())
    model = {name: value for name, value in settings["model"].items() if name not in ("vocab", "merges")}
    vocabulary = sorted((index, token) for token, index in tokenizer.get_vocab(with_added_tokens=True).items())
    return hashlib.sha256(
        _canonical(
            [vocabulary, settings["normalizer"], settings["pre_tokenizer"], model, settings["model"].get("merges")]
        )
    ).hexdigest()


def _canonical(value: Any) -> bytes:  # noqa: ANN401 - anything JSON has
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"
