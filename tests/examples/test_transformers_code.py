"""The example that 4.40 users find first: it runs, prints what it always printed, and differs in one import line."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.oracle import ENVIRONMENT_VARIABLE, ORACLE_VERSION, ROOT, named_python, transformers_version

EXAMPLE = ROOT / "examples" / "transformers_code.py"
EXPECTED = """
RealmConfig
by default: 12 layers, embeddings of 128 numbers
one's own: 2 layers of 32

RealmTokenizer, RealmTokenizerFast
word pieces: [CLS] who keeps the lighthouse ? [SEP]
types of a pair: 000000011111111
candidates: (2, 2, 10), 32 tokens without padding

RealmEmbedder
embedding: (1, 16), begins 1.269 -0.273 -1.282

RealmScorer
relevance: (2, 2)
  13.211  Who keeps the lighthouse? | A keeper lives in the tower.
  14.347  Who keeps the lighthouse? | The river is wide.
  11.327  What does the baker sell? | The baker sells bread and cakes.
  12.761  What does the baker sell? | Rain fell all night.

RealmKnowledgeAugEncoder
logits of every token: (4, 24, 132)
loss, marginal over the candidates: 4.558
gradient reaches the word embeddings: True

RealmReader
loss 4.675, of which the reader's 4.362
Who built the lighthouse of Norwick? by ada fenn (block 0)

RealmRetriever
three blocks with the question: (3, 24), with the answer: [True, False, True]
the answer begins at [[16], [-1], [20]] and ends at [[17], [-1], [21]]; -1: not there

RealmForOpenQA
Who built the lighthouse of Norwick? built by ada fenn
loss 4.442, blocks with the answer: 2

AutoConfig, AutoTokenizer, AutoModel
RealmConfig, RealmEmbedder: embedding (1, 16)
"""


def run(file: Path, python: str | Path = sys.executable) -> str:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([python, file], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def as_4_40_code() -> str:
    return EXAMPLE.read_text().replace("from realm_core import", "from transformers import")


def imported_modules(source: str) -> list[str]:
    statements = list(ast.walk(ast.parse(source)))
    plain = [alias.name for node in statements if isinstance(node, ast.Import) for alias in node.names]
    return plain + [node.module for node in statements if isinstance(node, ast.ImportFrom)]


def test_it_prints_what_it_always_printed():
    assert run(EXAMPLE) == EXPECTED


def test_only_one_line_differs_from_code_for_4_40():
    ours, theirs = EXAMPLE.read_text(), as_4_40_code()
    differing = [pair for pair in zip(ours.splitlines(), theirs.splitlines(), strict=True) if pair[0] != pair[1]]
    assert differing == [("from realm_core import (", "from transformers import (")]
    assert not any(name.startswith("realm_core") for name in imported_modules(theirs))


def test_4_40_code_prints_the_same(tmp_path):
    python = named_python()
    if transformers_version(python) != ORACLE_VERSION:
        pytest.skip(f"no transformers {ORACLE_VERSION}: run `make oracle`, or name a Python in {ENVIRONMENT_VARIABLE}")
    file = tmp_path / "transformers_code.py"
    file.write_text(as_4_40_code())
    assert run(file, python) == EXPECTED
