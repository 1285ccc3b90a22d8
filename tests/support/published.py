"""A tiny model in the form of the published ones: `pytorch_model.bin` with block embeddings, `block_records.npy`."""

from __future__ import annotations

import json
import random

import numpy as np
import torch
from support.tiny import PEOPLE, PLACES, SPECIAL, WORDS, vocabulary
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from realm_core.modeling.configuration import RealmConfig
from realm_core.modeling.embedder import RealmEmbedder
from realm_core.modeling.reader import RealmReader

DIMENSION = 16
POSITIONS = 96
BLOCK_RECORDS = "block_records.npy"


def texts(num_records, seed=0):
    """Texts of one to four sentences; every tenth is the one before it again."""
    rng = random.Random(seed)
    made = []
    for number in range(num_records):
        made.append(made[-1] if number % 10 == 9 else " ".join(_sentence(rng) for _ in range(rng.randint(1, 4))))
    return made


def _sentence(rng):
    words = " ".join(rng.choice(WORDS) for _ in range(3))
    return (
        f"The {rng.choice(WORDS[9:16])} of {rng.choice(PLACES)} was built in 1850 by {rng.choice(PEOPLE)} and {words}."
    )


def write_records(file, records):
    array = np.empty(len(records), dtype=object)
    array[:] = [record.encode() if isinstance(record, str) else record for record in records]
    np.save(file, array, allow_pickle=True)
    return file


def embedder_tensors(seed=0):
    """The state of an embedder under its own names."""
    torch.manual_seed(seed)
    embedder = RealmEmbedder(realm_config())
    return {name: tensor.clone() for name, tensor in embedder.state_dict().items()}


def realm_config():
    return RealmConfig(
        vocab_size=len(vocabulary()), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=POSITIONS, retriever_proj_size=DIMENSION, initializer_range=0.2,
        reader_seq_len=POSITIONS, span_hidden_size=8,
    )  # fmt: skip


def write_tokenizer(directory):
    words = vocabulary()
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.enable_truncation(8)
    tokenizer.save(str(directory / "tokenizer.json"))


def write_model(directory, tensors, architecture):
    directory.mkdir(parents=True, exist_ok=True)
    config = realm_config().to_dict() | {"architectures": [architecture], "model_type": "realm"}
    (directory / "config.json").write_text(json.dumps(config))
    write_tokenizer(directory)
    torch.save(tensors, directory / "pytorch_model.bin")
    return directory


def write_open_qa(directory, records, *, seed=0, block_emb=None):
    """A RealmForOpenQA with one random embedding per record; its decoder shares the memory of its word embedding."""
    torch.manual_seed(seed)
    reader = {f"reader.{name}": tensor.clone() for name, tensor in RealmReader(realm_config()).state_dict().items()}
    embedder = {f"embedder.{name}": tensor for name, tensor in embedder_tensors(seed).items()}
    embedder["embedder.cls.predictions.decoder.weight"] = embedder["embedder.realm.embeddings.word_embeddings.weight"]
    if block_emb is None:
        block_emb = torch.randn(len(records), DIMENSION, generator=torch.Generator().manual_seed(seed))
    write_model(directory, {**embedder, **reader, "block_emb": block_emb}, "RealmForOpenQA")
    write_records(directory / BLOCK_RECORDS, records)
    return directory
