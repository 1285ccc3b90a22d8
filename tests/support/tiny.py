"""A tiny corpus in words of its own, and a tiny BERT checkpoint that knows them: whole pipelines run in seconds."""

from __future__ import annotations

import json
import random

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PLACES = ["Norwick", "Eastham", "Fallowdale", "Redcliff", "Millbrook", "Stonebury", "Greywater", "Ashford"]
PEOPLE = ["Ada Fenn", "Bruno Hale", "Clara Voss", "Dorian Pike", "Edith Crane", "Felix Marsh"]
WORDS = [
    "the",
    "a",
    "was",
    "built",
    "in",
    "by",
    "and",
    "opened",
    "for",
    "near",
    "river",
    "bridge",
    "old",
    "town",
    "market",
    "tower",
    "school",
    "of",
    "first",
    "it",
    "named",
    "after",
]


def write_corpus(path, num_documents=24, sentences=14, seed=0):
    """JSON lines of documents whose sentences name people, places and years."""
    rng = random.Random(seed)
    with path.open("w") as file:
        for number in range(num_documents):
            text = " ".join(_sentence(rng) for _ in range(sentences))
            title = f"{rng.choice(PLACES)} {rng.choice(WORDS[9:16])} {number}"
            file.write(json.dumps({"title": title, "text": text}) + "\n")
    return path


def _sentence(rng):
    words = " ".join(rng.choice(WORDS) for _ in range(5))
    what, place, year = rng.choice(WORDS[9:16]), rng.choice(PLACES), rng.randint(1700, 1999)
    return f"The {what} of {place} was built in {year} by {rng.choice(PEOPLE)} and {words}."


def vocabulary():
    words = {w.lower() for phrase in [*PLACES, *PEOPLE, *WORDS] for w in phrase.split()} | {"."}
    pieces = list("abcdefghijklmnopqrstuvwxyz0123456789")
    return SPECIAL + sorted(words) + sorted({*pieces, *("##" + c for c in pieces)} - words)


def write_bert(folder, hidden_size=32, seed=0):
    """A BertModel checkpoint directory: 2 layers, safetensors, tokenizer.json."""
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True)
    words = vocabulary()
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * hidden_size,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
