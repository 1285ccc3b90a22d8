"""One side of `benchmarks.embed`, in a process and an environment of its own: `python -m benchmarks.embed_sides …`.

It loads its model once, then answers each line of standard input, a JSON object, with one line of standard output that
begins with `ANSWER`: so the sides take turns within one run. Runs under this project, transformers 4.40.2 and
sentence-transformers, so it imports none of them at the top.

Shapes: R rows, B rows of a batch, L tokens, D projection.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.answers import answer_requests, say_answer
from benchmarks.embed_blocks import MAX_BLOCK_TOKENS, Blocks, load_blocks
from benchmarks.embed_engines import load_engine, measure_peak_of

CLS_ID, SEP_ID = 101, 102
"""Of uncased BERT."""
PADDED_BATCH = {"cpu": 8, "cuda": 64}
"""Rows of a batch padded to 288; on a CPU larger batches are no faster."""
REFERENCE_BATCH = 8


class Side(Protocol):
    """Embeds blocks."""

    name: str
    """What it is, with its version."""

    def encode(self, blocks: Blocks) -> np.ndarray:
        """[R, D] in the order of the blocks."""


def main() -> None:
    """Answers until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=sorted(SIDES), required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--num-threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.num_threads)
    torch.set_grad_enabled(False)
    started = time.perf_counter()
    side = SIDES[options.side](options.folder, options.device)
    side.encode(load_blocks(options.folder / "warm-up.json"))
    say_answer({"name": side.name, "load_seconds": time.perf_counter() - started})
    worker = Worker(side, options.folder, options.device, precision=options.side.removeprefix("ours-"))
    answer_requests(worker.answer)


class Worker:
    """Carries out what the benchmark asks a side for."""

    def __init__(self, side: Side, folder: Path, device: str, *, precision: str) -> None:
        self._side, self._folder, self._device, self._precision = side, folder, device, precision

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """`{"do": "encode", "blocks": name, "every": n, "save": name}`, or the other two methods."""
        ask: dict[str, Callable[..., dict[str, Any]]] = {
            "encode": self.encode,
            "peak": self.peak,
            "invariance": self.invariance,
        }
        return ask[request.pop("do")](**request)

    def encode(self, blocks: str, every: int, save: str) -> dict[str, Any]:
        """Times every n-th of the blocks, and saves their embeddings."""
        chosen = self._blocks(blocks)
        chosen = chosen.take(range(0, len(chosen), every))
        started = time.perf_counter()
        embeddings_RD = self._side.encode(chosen)
        seconds = time.perf_counter() - started
        np.save(self._folder / save, embeddings_RD)
        return {"seconds": seconds}

    def peak(self) -> dict[str, Any]:
        """Operations per second of the device's matrix products in this side's arithmetic, now."""
        return {"peak": measure_peak_of(self._device, self._precision)}

    def invariance(self, blocks: str, num_rows: int) -> dict[str, Any]:
        """How far rows differ when they come in another order and beside other rows; 0 is the same bits."""
        chosen = self._blocks(blocks)
        some = np.random.default_rng(0).permutation(len(chosen))[:num_rows]
        fewer = np.sort(some)[::2]
        first_RD, second_RD = self._side.encode(chosen.take(some)), self._side.encode(chosen.take(fewer))
        place_of = {row: place for place, row in enumerate(some.tolist())}
        same_RD = first_RD[[place_of[row] for row in fewer.tolist()]]
        return {"largest_difference": float(np.abs(same_RD - second_RD).max())}

    def _blocks(self, name: str) -> Blocks:
        return load_blocks(self._folder / f"{name}.json")


class PaddedRealmEmbedder:
    """transformers' own RealmEmbedder in fp32, every block padded to 288; where it is gone, its BertModel."""

    def __init__(self, folder: Path, device: str) -> None:
        import transformers

        has_realm = hasattr(transformers, "RealmEmbedder")
        kind, weights = ("RealmEmbedder", "encoder") if has_realm else ("BertModel", "bert")
        self._model = getattr(transformers, kind).from_pretrained(folder / weights).eval().to(device)
        self._output = "projected_score" if has_realm else "pooler_output"
        self._device = device
        self.name = f"transformers {transformers.__version__} {kind}, padded, fp32"

    def encode(self, blocks: Blocks) -> np.ndarray:
        """See `Side`."""
        size = PADDED_BATCH[self._device]
        batches = [blocks.take(range(i, min(i + size, len(blocks)))) for i in range(0, len(blocks), size)]
        outputs = [self._model(**padded(batch, MAX_BLOCK_TOKENS, self._device))[self._output] for batch in batches]
        return torch.cat([output.cpu() for output in outputs]).numpy()


class SentenceTransformers:
    """`SentenceTransformer.encode` of texts, as its users call it, which sorts by length and pads to the longest.

    The same computation: [CLS], pooler, projection, LayerNorm. Tokenizing is part of the call, about 1 % of it with
    BERT-base.
    """

    def __init__(self, folder: Path, device: str) -> None:
        import sentence_transformers
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        encoder = Transformer(str(folder / "bert"), max_seq_length=MAX_BLOCK_TOKENS)
        width = encoder.get_embedding_dimension()
        modules = [encoder, Pooling(width, pooling_mode="cls"), *_heads(folder)]
        self._model = sentence_transformers.SentenceTransformer(modules=modules, device=device)
        self.name = f"sentence-transformers {sentence_transformers.__version__} encode, fp32"

    def encode(self, blocks: Blocks) -> np.ndarray:
        """See `Side`."""
        pairs = list(zip(blocks.titles, blocks.bodies, strict=True))
        embeddings_RD = self._model.encode(pairs, batch_size=32, show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(embeddings_RD)


def _heads(folder: Path) -> list[nn.Module]:
    """Pooler, projection and LayerNorm of the embedder, as sentence-transformers has them."""
    from safetensors.torch import load_file
    from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm

    tensors = load_file(folder / "encoder" / "model.safetensors")
    pooler, projection = tensors["realm.pooler.dense.weight"], tensors["cls.dense.weight"]
    heads: list[Any] = [
        Dense(pooler.shape[1], pooler.shape[0], activation_function=nn.Tanh()),
        Dense(projection.shape[1], projection.shape[0], activation_function=nn.Identity()),
        LayerNorm(projection.shape[0]),
    ]
    for head, layer, name in zip(
        heads,
        ("linear", "linear", "norm"),
        ("realm.pooler.dense", "cls.dense", "cls.LayerNorm"),
        strict=True,
    ):
        getattr(head, layer).load_state_dict({part: tensors[f"{name}.{part}"] for part in ("weight", "bias")})
    heads[-1].norm.eps = 1e-12
    return heads


class PlainForward:
    """The plain forward pass of this project's RealmEmbedder in fp32: what all others are compared with."""

    name = "our RealmEmbedder, plain forward, fp32"

    def __init__(self, folder: Path, device: str) -> None:
        from realm_core.modeling.checkpoints import load_encoder

        self._model = cast(nn.Module, load_encoder(folder / "encoder").embedder).to(device)
        self._device = device

    def encode(self, blocks: Blocks) -> np.ndarray:
        """See `Side`."""
        order = np.argsort(-blocks.lengths_R, kind="stable")
        batches = [order[start : start + REFERENCE_BATCH] for start in range(0, len(order), REFERENCE_BATCH)]
        outputs = [self._forward(blocks.take(batch)) for batch in batches]
        embeddings_RD = np.empty((len(blocks), outputs[0].shape[1]), dtype=np.float32)
        embeddings_RD[order] = np.concatenate(outputs)
        return embeddings_RD

    def _forward(self, batch: Blocks) -> np.ndarray:
        output = self._model(**padded(batch, int(batch.lengths_R.max()), self._device))
        return cast(np.ndarray, output.projected_score.cpu().numpy())


class Ours:
    """This project's engine."""

    def __init__(self, folder: Path, device: str, *, precision: str) -> None:
        self._engine, self.name = load_engine(folder / "encoder", folder / "calibration.json", device, precision)

    def encode(self, blocks: Blocks) -> np.ndarray:
        """See `Side`."""
        return self._engine.encode(blocks.title_ids, blocks.body_ids)


def padded(blocks: Blocks, width: int, device: str) -> dict[str, Tensor]:
    """`[CLS] title [SEP] body [SEP]` padded on the right: input_ids, attention_mask, token_type_ids [B, L]."""
    columns_BL = np.zeros((3, len(blocks), width), dtype=np.int64)
    for row, (title, body) in enumerate(zip(blocks.title_ids, blocks.body_ids, strict=True)):
        ids = [CLS_ID, *title.tolist(), SEP_ID, *body.tolist(), SEP_ID]
        columns_BL[0, row, : len(ids)] = ids
        columns_BL[1, row, : len(ids)] = 1
        columns_BL[2, row, len(title) + 2 : len(ids)] = 1
    ids_BL, mask_BL, types_BL = torch.from_numpy(columns_BL).to(device)
    return {"input_ids": ids_BL, "attention_mask": mask_BL, "token_type_ids": types_BL}


SIDES: dict[str, Callable[[Path, str], Side]] = {
    "transformers": PaddedRealmEmbedder,
    "sentence-transformers": SentenceTransformers,
    "plain": PlainForward,
    **{f"ours-{precision}": functools.partial(Ours, precision=precision) for precision in ("fp32", "bf16", "int8")},
}

if __name__ == "__main__":
    main()
