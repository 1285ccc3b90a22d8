"""A synthetic model in the form of the published ones, of any size, written without holding it in memory.

The texts are cut out of Python's own help topics: English prose with code in it.
"""

from __future__ import annotations

import json
import pickle
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from numpy.lib import format as npy
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from realm_core.modeling.configuration import RealmConfig
from realm_core.modeling.embedder import RealmEmbedder

NUM_PUBLISHED_RECORDS = 13_353_718
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
DIMENSION = 128
PICKLE_LIST = 1000
"""Elements after which pickle closes a list and goes on with it."""


def write_block_records(file: Path, num_records: int, mean_bytes: int, *, seed: int = 0) -> None:
    """Writes what `np.save` would for an array of that many byte strings, in pickle protocol 3."""
    with file.open("wb", buffering=1 << 20) as out:
        npy.write_array_header_1_0(out, {"descr": "|O", "fortran_order": False, "shape": (num_records,)})
        out.write(_until_the_list(num_records))
        for number, record in enumerate(records(num_records, mean_bytes, seed=seed)):
            if number % PICKLE_LIST == 0:
                out.write(b"(" if number == 0 else b"e(")
            out.write(b"B" + struct.pack("<I", len(record)) + record)
            out.write(b"r" + struct.pack("<I", _FIRST_NUMBER + number))
        out.write(b"etb.")


def records(num_records: int, mean_bytes: int, *, seed: int = 0) -> Iterator[bytes]:
    """Pieces of prose between half and one and a half times as long as the mean, each with its number."""
    text = " ".join(" ".join(topics.values()).split()).encode("ascii", "ignore")
    rng, longest = random.Random(seed), 3 * mean_bytes // 2
    for number in range(num_records):
        start, length = rng.randrange(len(text) - longest), rng.randint(mean_bytes // 2, longest)
        yield b"%s %d." % (text[start : start + length], number)


_TEMPLATE = pickle.dumps(np.array([b"record"], dtype=object), protocol=3)
_FIRST_NUMBER = 14
"""Under which pickle remembers the first element: the array itself takes 0 to 13."""


def _until_the_list(num_records: int) -> bytes:
    before = _TEMPLATE[: _TEMPLATE.index(b"C\x06record")]
    return before.replace(b"K\x01K\x01\x85", b"K\x01J" + struct.pack("<i", num_records) + b"\x85")


def write_model(directory: Path, num_records: int, *, num_layers: int, hidden_size: int) -> None:
    """A RealmForOpenQA of random weights with a vocabulary of the texts' words, and a random embedding per record."""
    words = _vocabulary()
    config = RealmConfig(
        vocab_size=len(words), hidden_size=hidden_size, num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // 64, intermediate_size=4 * hidden_size,
    )  # fmt: skip
    (directory / "config.json").write_text(json.dumps({**config.to_dict(), "architectures": ["RealmForOpenQA"]}))
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(directory / "tokenizer.json"))
    state = RealmEmbedder(config).state_dict()
    tensors = {f"{part}.{name}": tensor for part in ("embedder", "reader") for name, tensor in state.items()}
    torch.save({**tensors, "block_emb": torch.randn(num_records, DIMENSION)}, directory / "pytorch_model.bin")


def _vocabulary() -> list[str]:
    splitter = pre_tokenizers.BertPreTokenizer()
    words = {word for word, _ in splitter.pre_tokenize_str(" ".join(topics.values()).lower())}
    letters = {letter for word in words for letter in word} | set("0123456789")
    return SPECIAL + sorted(words | letters | {f"##{letter}" for letter in letters})
