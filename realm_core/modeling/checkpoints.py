"""Loads and saves embedders with their tokenizers."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from realm_core.errors import EncoderError
from realm_core.modeling.bert import check_is_bert
from realm_core.modeling.configuration import RealmConfig
from realm_core.modeling.digests import encoder_digest, tokenizer_digest
from realm_core.modeling.embedder import RealmEmbedder
from realm_core.modeling.open_qa import BLOCK_EMBEDDINGS, RealmForOpenQA
from realm_core.modeling.strict_loading import build
from realm_core.modeling.tokenization import RealmTokenizer, read_vocabulary
from realm_core.modeling.weights import read_config, read_tensors, resolve_directory

__all__ = [
    "LoadedEncoder",
    "encoder_digest",
    "load_encoder",
    "load_open_qa",
    "load_tokenizer",
    "save_encoder",
    "save_tokenizer",
    "tokenizer_digest",
]

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_TOKENIZER_FLAGS = ("do_lower_case", "tokenize_chinese_chars", "strip_accents")
_BLOCK_PREFIX, _QUERY_PREFIX = "embedder.", "query_embedder."
"""Of a RealmScorer's tensors; a RealmForOpenQA has the first one."""
_TIED_BIAS = "cls.predictions.decoder.bias"
"""The same parameter as `cls.predictions.bias`; safetensors stores it once, under that name."""
_MAX_VOCAB_SIZE = 2**16


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedEncoder:
    """An embedder with the tokenizer it was trained with."""

    embedder: RealmEmbedder
    """In evaluation mode, fp32, on the CPU; of blocks, and of queries too unless these have their own."""
    tokenizer: Tokenizer
    """Without truncation and padding."""
    query_embedder: RealmEmbedder | None = None
    """Of queries, where they have one of their own (the reference's `share_embedders=False`)."""

    @property
    def digest(self) -> str:
        """What names the encoder, see `encoder_digest`."""
        return encoder_digest(self.embedder, self.query_embedder)

    @property
    def models(self) -> dict[str, RealmEmbedder]:
        """What is trained, by name."""
        own = {} if self.query_embedder is None else {"query_embedder": self.query_embedder}
        return {"embedder": self.embedder, **own}

    def separated(self) -> LoadedEncoder:
        """With an embedder of its own for queries: a copy of the shared one, unless there is one already."""
        if self.query_embedder is not None:
            return self
        return replace(self, query_embedder=copy.deepcopy(self.embedder))

    @property
    def config(self) -> RealmConfig:
        """The embedder's configuration."""
        return self.embedder.config

    def token_id(self, token: str) -> int:
        """The id of a token, for example "[CLS]".

        Raises:
            EncoderError: the vocabulary has no such token.
        """
        index = self.tokenizer.token_to_id(token)
        if index is None:
            raise _no_tokenizer("tokenizer", f"a vocabulary without {token}")
        return index


def load_encoder(path_or_id: str | Path, *, seed: int = 0) -> LoadedEncoder:
    """Loads a REALM embedder, or makes one from a BERT checkpoint.

    A directory or hub id of RealmEmbedder, RealmScorer or RealmForOpenQA gives its embedder exactly, and a RealmScorer
    whose queries have another one gives that too; a BERT one gives `RealmEmbedder.from_bert` with a new projection.

    Args:
        path_or_id: directory or hub id.
        seed: of the new projection, for BERT checkpoints.

    Raises:
        EncoderError: directory, weights, configuration or tokenizer missing, damaged, or of another architecture.
    """
    directory = resolve_directory(path_or_id)
    fields = read_config(directory)
    query_embedder = None
    if fields.get("model_type") == "realm":
        embedder, query_embedder = _load_embedders(directory, fields)
    else:
        check_is_bert(directory, fields)
        embedder = RealmEmbedder.from_bert(directory, seed=seed)
    tokenizer = load_tokenizer(directory)
    _check_tokenizer(directory, tokenizer, embedder.config)
    return LoadedEncoder(embedder=embedder, tokenizer=tokenizer, query_embedder=query_embedder)


def load_open_qa(directory: Path) -> RealmForOpenQA:
    """The weights of a RealmForOpenQA, in evaluation mode, fp32, on the CPU, with nothing to search and no retriever.

    Raises:
        EncoderError: weights or configuration missing, damaged, incomplete, or of another architecture.
    """
    tensors = {name: tensor.float() for name, tensor in read_tensors(directory).items() if name != BLOCK_EMBEDDINGS}
    return build(RealmForOpenQA, _config(directory, read_config(directory)), tensors, str(directory))


def save_encoder(
    embedder: RealmEmbedder, tokenizer: Tokenizer, directory: Path, *, query_embedder: RealmEmbedder | None = None
) -> None:
    """Writes config.json, model.safetensors, tokenizer.json and vocab.txt, which `load_encoder` reads back exactly.

    As a RealmEmbedder; with an embedder of its own for queries as a RealmScorer, which has both.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(embedder.config)
    if query_embedder is None:
        config.architectures, tensors = ["RealmEmbedder"], _tensors_of(embedder)
    else:
        config.architectures = ["RealmScorer"]
        tensors = _tensors_of(embedder, _BLOCK_PREFIX) | _tensors_of(query_embedder, _QUERY_PREFIX)
    config.save_pretrained(directory)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    save_tokenizer(tokenizer, directory)


def _tensors_of(embedder: RealmEmbedder, prefix: str = "") -> dict[str, Tensor]:
    tensors = {name: tensor for name, tensor in embedder.state_dict().items() if name != _TIED_BIAS}
    return {prefix + name: tensor.contiguous() for name, tensor in tensors.items()}


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Writes tokenizer.json, without truncation and padding, and vocab.txt."""
    bare = Tokenizer.from_str(tokenizer.to_str())
    bare.no_truncation()
    bare.no_padding()
    bare.save(str(directory / "tokenizer.json"))
    vocabulary = sorted(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
    lines = "".join(f"{token}\n" for token, _ in vocabulary)
    (directory / "vocab.txt").write_text(lines, encoding="utf-8", newline="\n")


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of `tokenizer.json`, else of `vocab.txt`, without truncation and padding.

    Raises:
        EncoderError: there is neither, or it cannot be read, or it lacks a special token.
    """
    if (directory / "tokenizer.json").is_file():
        tokenizer = _read_tokenizer_json(directory / "tokenizer.json")
    elif (directory / "vocab.txt").is_file():
        tokenizer = _read_vocab_txt(directory)
    else:
        raise _no_tokenizer(directory, "no tokenizer")
    _check_special_tokens(directory, tokenizer.get_vocab(with_added_tokens=True))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _load_embedders(directory: Path, fields: dict[str, Any]) -> tuple[RealmEmbedder, RealmEmbedder | None]:
    """That of blocks, and that of queries where it is another one."""
    tensors = {name: tensor.float() for name, tensor in read_tensors(directory).items()}
    blocks, queries = _with_prefix(tensors, _BLOCK_PREFIX), _with_prefix(tensors, _QUERY_PREFIX)
    config = _config(directory, fields)
    embedder = build(RealmEmbedder, config, blocks or tensors, str(directory))
    # transformers writes a shared embedder under both names into a .bin file
    is_shared = all(name in blocks and torch.equal(blocks[name], tensor) for name, tensor in queries.items())
    return embedder, None if is_shared else build(RealmEmbedder, config, queries, str(directory))


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _config(directory: Path, fields: dict[str, Any]) -> RealmConfig:
    try:
        return RealmConfig.from_dict(
            {name: value for name, value in fields.items() if name not in ("dtype", "torch_dtype")}
        )
    except (ValueError, TypeError) as error:
        raise EncoderError(
            where=str(directory / "config.json"),
            found=str(error),
            expected="a REALM configuration",
            action="Copy the config.json of the checkpoint.",
        ) from error


def _read_vocab_txt(directory: Path) -> Tokenizer:
    vocabulary = read_vocabulary(directory / "vocab.txt")
    _check_special_tokens(directory, vocabulary)  # now, because the tokenizer would add what is missing
    return RealmTokenizer(vocabulary, **_tokenizer_flags(directory)).backend_tokenizer


def _check_special_tokens(directory: Path, vocabulary: dict[str, int]) -> None:
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise _no_tokenizer(directory, f"a tokenizer without {', '.join(missing)}")


def _tokenizer_flags(directory: Path) -> dict[str, Any]:
    file = directory / "tokenizer_config.json"
    fields = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {name: fields[name] for name in _TOKENIZER_FLAGS if name in fields}


def _read_tokenizer_json(file: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing narrower
        raise _no_tokenizer(file, f"a tokenizer.json that cannot be read ({error})") from error


def _check_tokenizer(directory: Path, tokenizer: Tokenizer, config: RealmConfig) -> None:
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if largest >= config.vocab_size or config.vocab_size > _MAX_VOCAB_SIZE:
        raise EncoderError(
            where=str(directory),
            found=f"token ids up to {largest} with a vocabulary of {config.vocab_size}",
            expected=f"ids that the word embedding has, and at most {_MAX_VOCAB_SIZE} of them",
            action="Use the tokenizer of this very checkpoint.",
        )


def _no_tokenizer(where: Path | str, found: str) -> EncoderError:
    return EncoderError(
        where=str(where),
        found=found,
        expected=f"tokenizer.json or vocab.txt, with {' '.join(SPECIAL_TOKENS)}",
        action="Copy the tokenizer's files beside the weights.",
    )
