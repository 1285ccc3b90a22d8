"""One side of one case, in a process of its own: `python -m benchmarks.model_worker --side ours --case reader/step`.

Runs under this project and under transformers 4.40.2, so it imports neither at the top. The last line of standard
output is one JSON object: seconds of each run, bytes, and some numbers of the output, by which the sides are compared.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.model_cases import CASES, FULL, QUICK, Case, Sizes, model_inputs, open_qa_inputs

LIBRARIES = {"ours": "realm_core", "theirs": "transformers"}
LEARNING_RATE = 3e-5
NUM_OUTPUTS = 128
"""Numbers of the output that are printed for comparison."""

Inputs = dict[str, Any]
Run = Callable[[], Tensor]
"""Does the case's work once; gives its loss or the numbers by which two sides are compared."""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=sorted(LIBRARIES), required=True)
    parser.add_argument("--case", choices=[case.name for case in CASES], required=True)
    parser.add_argument("--num-runs", type=int, default=1)
    parser.add_argument("--num-threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    case = next(case for case in CASES if case.name == options.case)
    torch.set_num_threads(options.num_threads)
    library = importlib.import_module(LIBRARIES[options.side])
    measured = measure(library, case, QUICK if options.quick else FULL, options.num_runs)
    print(json.dumps(measured | _versions()))


def measure(library: ModuleType, case: Case, sizes: Sizes, num_runs: int) -> dict[str, Any]:
    """Seconds and bytes of a case, after a run on inputs that cost next to nothing.

    That first run leaves an optimizer with its moments, so the peak is the one of any later step.
    """
    subject = _OpenQA(library, case, sizes) if case.class_name == "RealmForOpenQA" else _Model(library, case, sizes)
    constructed_bytes = resident_bytes()
    subject.warm_up()
    seconds, result = [], torch.zeros(0)
    for _ in range(num_runs):
        start = time.perf_counter()
        result = subject.run()
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": seconds,
        "constructed_bytes": constructed_bytes,
        "peak_bytes": peak_bytes(),
        "outputs": result.flatten()[:NUM_OUTPUTS].double().tolist(),
    }


class _Model:
    """A class that takes tensors."""

    def __init__(self, library: ModuleType, case: Case, sizes: Sizes) -> None:
        self._case, self._sizes = case, sizes
        self._model = build(library, case, sizes)
        self._optimizer = _optimizer(self._model, case)

    def warm_up(self) -> None:
        self._run(self._sizes.warm_up())

    def run(self) -> Tensor:
        return self._run(self._sizes)

    def _run(self, sizes: Sizes) -> Tensor:
        inputs = {name: torch.from_numpy(array) for name, array in model_inputs(self._case, sizes).items()}
        if self._case.mode == "forward":
            with torch.no_grad():
                return NUMBERS[self._case.class_name](self._model(**inputs))
        if self._case.class_name == "RealmKnowledgeAugEncoder":
            inputs["relevance_score"].requires_grad_()
        return _step(self._optimizer, lambda: LOSSES[self._case.class_name](self._model(**inputs)))


class _OpenQA:
    """RealmForOpenQA, which takes questions and looks blocks up by itself."""

    def __init__(self, library: ModuleType, case: Case, sizes: Sizes) -> None:
        self._case, self._inputs = case, open_qa_inputs(case, sizes)
        self._answers_a_batch = library.__name__ == "realm_core"
        self._tokenizer = _tokenizer(library, self._inputs.vocabulary)
        self._retriever = library.RealmRetriever(self._inputs.block_records, self._tokenizer)
        short_records = np.array([b"w0 w1 w2 w3 w4 w5 w6 w7 w8 w9"] * sizes.num_block_records, dtype=object)
        self._short_retriever = library.RealmRetriever(short_records, self._tokenizer)
        self._model = build(library, case, sizes, retriever=self._retriever)
        self._model.block_emb = torch.from_numpy(self._inputs.block_emb)
        self._optimizer = _optimizer(self._model, case)

    def warm_up(self) -> None:
        self._model.retriever = self._short_retriever
        self.run()
        self._model.retriever = self._retriever

    def run(self) -> Tensor:
        if self._case.mode == "step":
            return _step(self._optimizer, self._loss)
        questions = list(self._inputs.questions)
        batches = [questions] if self._answers_a_batch else [[question] for question in questions]
        with torch.no_grad():
            found = [self._model(**self._tokenized(batch)).predicted_answer_ids for batch in batches]
        return torch.cat([answer for answers in found for answer in _one_by_one(answers)])

    def _loss(self) -> Tensor:
        answer_ids = self._tokenizer(
            list(self._inputs.answers),
            add_special_tokens=False,
            return_token_type_ids=False,
            return_attention_mask=False,
        ).input_ids
        output = self._model(**self._tokenized(list(self._inputs.questions)), answer_ids=answer_ids)
        return cast(Tensor, output.reader_output.loss)

    def _tokenized(self, questions: list[str]) -> Inputs:
        return dict(self._tokenizer(questions, padding=True, return_tensors="pt"))


def build(library: ModuleType, case: Case, sizes: Sizes, **arguments: object) -> nn.Module:
    """The case's model in the mode it is measured in; its weights are a function of their names."""
    fields = {
        "num_candidates": sizes.num_candidates,
        "reader_beam_size": sizes.reader_beam_size,
        "searcher_beam_size": sizes.searcher_beam_size,
        "reader_seq_len": sizes.reader_tokens,
        "num_block_records": sizes.num_block_records,
    }
    model = getattr(library, case.class_name)(library.RealmConfig(**(fields | sizes.config)), **arguments)
    for name, parameter in model.named_parameters():
        fill_by_name(name, parameter)
    return cast(nn.Module, model.train(case.mode == "step"))


@torch.no_grad()
def fill_by_name(name: str, parameter: nn.Parameter) -> None:
    """Gives a parameter values that depend on its name alone."""
    if parameter.ndim == 1:
        parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    else:
        parameter.normal_(0, 0.02, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


def _optimizer(model: nn.Module, case: Case) -> torch.optim.Optimizer | None:
    if case.mode == "forward":
        return None
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)


def _step(optimizer: torch.optim.Optimizer | None, loss: Run) -> Tensor:
    if optimizer is None:
        raise ValueError("a step needs an optimizer")
    value = loss()
    value.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad()
    return value.detach()


def _tokenizer(library: ModuleType, vocabulary: tuple[str, ...]) -> Any:  # noqa: ANN401 - either library's
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.txt"
        file.write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
        return library.RealmTokenizerFast(vocab_file=str(file))


def _one_by_one(answer_ids: Tensor | list[Tensor]) -> list[Tensor]:
    return [answer_ids] if isinstance(answer_ids, Tensor) else answer_ids


LOSSES: dict[str, Callable[[Any], Tensor]] = {
    "RealmEmbedder": lambda output: output.projected_score[:, 0].sum(),
    "RealmScorer": lambda output: -output.relevance_score.log_softmax(-1)[:, 0].mean(),
    "RealmKnowledgeAugEncoder": lambda output: output.loss,
    "RealmReader": lambda output: output.loss,
}
"""Where a class has no loss of its own, the simplest that reaches all of its parameters."""

NUMBERS: dict[str, Callable[[Any], Tensor]] = {
    "RealmEmbedder": lambda output: output.projected_score,
    "RealmScorer": lambda output: output.relevance_score,
    "RealmKnowledgeAugEncoder": lambda output: output.logits[:, 0, 1000:1008],
    "RealmReader": lambda output: torch.stack([output.block_idx, output.start_pos[0], output.end_pos[0]]),
}


def resident_bytes() -> int:
    """Memory of this process now (where the system does not tell: its peak so far)."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """The most memory this process ever had."""
    return _status("VmHWM")


def _status(name: str) -> int:
    status = Path("/proc/self/status")
    if status.exists():  # not ru_maxrss: on Linux it counts the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _versions() -> dict[str, str]:
    return {"torch": torch.__version__, "transformers": importlib.import_module("transformers").__version__}


if __name__ == "__main__":
    main()
