"""int8 forms of an encoder, calibrated once on the corpus's own blocks and kept in the store.

`quantized/int8-<12 digits of their digest>/` holds `model.xml`, `model.bin` and, last, `quantized.json`; the folder's
name stands in the names of the embeddings that are made with it. `quantized/of-<encoder digest>.json` names the one
that an encoder has: a later corpus does not calibrate again, or unchanged parts would get new embeddings. Quantizing
twice does not give the same bytes, hence the name by content.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from realm_core.engines.buckets import ShapeGrid, plan_batches
from realm_core.engines.openvino_engine import BUCKET_STEP_TOKENS, TOKENS_PER_BATCH, OpenVinoEngine, require_package
from realm_core.engines.token_rows import TokenRows, padded_tokens, rows_of_blocks
from realm_core.engines.torch_engine import TorchEngine
from realm_core.errors import ArtifactCorruptError, ArtifactMissingError
from realm_core.storage.block_store import read_part
from realm_core.storage.digests import digest_of_file
from realm_core.storage.encoder_store import get_encoder

if TYPE_CHECKING:
    from realm_core.modeling.checkpoints import LoadedEncoder
    from realm_core.modeling.configuration import RealmConfig
    from realm_core.storage.block_store import CorpusManifest
    from realm_core.storage.files import Store

Value = TypeVar("Value")

NUM_CALIBRATION_BLOCKS = 128
NUM_CALIBRATION_PARTS = 4
DIGEST_DIGITS = 12
MODEL, WEIGHTS, MANIFEST = "model.xml", "model.bin", "quantized.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedEncoder:
    """An int8 form of an encoder, as `quantized.json` has it."""

    encoder_digest: str
    corpus_digest: str
    """Of the corpus whose blocks calibrated it."""
    num_calibration_blocks: int
    openvino: str
    nncf: str
    sha256: dict[str, str]
    """Of each file."""

    @property
    def arithmetic(self) -> str:
        """`int8-` and the first digits of the digest of the files."""
        joined = "".join(f"{name}:{digest};" for name, digest in sorted(self.sha256.items()))
        return "int8-" + hashlib.sha256(joined.encode()).hexdigest()[:DIGEST_DIGITS]


def prepare_int8(
    store: Store, encoder_digest: str, corpus: CorpusManifest, say: Callable[[str], None] = lambda _: None
) -> str:
    """The name of the encoder's int8 arithmetic; quantizes it first unless the store has it, in about a minute.

    Raises:
        UsageError: OpenVINO or NNCF is not installed.
    """
    require_package("openvino")
    arithmetic = quantized_arithmetic(store, encoder_digest)
    if arithmetic is not None and _is_whole(store, arithmetic):
        return arithmetic
    say(f"int8: calibrating encoder {encoder_digest[:12]} on {NUM_CALIBRATION_BLOCKS} blocks of the corpus")
    with tempfile.TemporaryDirectory(prefix="realm-int8-") as folder:
        quantized = _quantize(store, encoder_digest, corpus, Path(folder))
        store.put_folder(Path(folder), _folder(quantized.arithmetic), last=MANIFEST)
    store.write_json(_pointer(encoder_digest), {"arithmetic": quantized.arithmetic})
    return quantized.arithmetic


def quantized_arithmetic(store: Store, encoder_digest: str) -> str | None:
    """The name of the encoder's int8 arithmetic, or None when it has none yet."""
    if not store.exists(_pointer(encoder_digest)):
        return None
    return str(store.read_json(_pointer(encoder_digest), required=("arithmetic",))["arithmetic"])


def load_int8_engine(store: Store, encoder_digest: str, arithmetic: str, *, threads: int | None) -> OpenVinoEngine:
    """The engine of an encoder's int8 form; queries that have an embedder of their own stay in fp32.

    Raises:
        ArtifactMissingError, ArtifactCorruptError: the quantized model is not there, damaged, or another encoder's.
        UsageError: OpenVINO is not installed.
    """
    quantized = read_quantized(store, arithmetic)
    if quantized.encoder_digest != encoder_digest:
        raise _corrupt(store, arithmetic, f"the int8 form of encoder {quantized.encoder_digest[:12]}")
    encoder = get_encoder(store, encoder_digest)
    cls_token_id, sep_token_id = encoder.token_id("[CLS]"), encoder.token_id("[SEP]")
    query_engine = None
    if encoder.query_embedder is not None:
        query_engine = TorchEngine(encoder.query_embedder, cls_token_id=cls_token_id, sep_token_id=sep_token_id)
    return OpenVinoEngine(
        store.local_folder(_folder(arithmetic)) / MODEL,
        encoder.embedder.config,
        threads=threads,
        cls_token_id=cls_token_id,
        sep_token_id=sep_token_id,
        measures_peak=True,
        query_engine=query_engine,
    )


def read_quantized(store: Store, arithmetic: str) -> QuantizedEncoder:
    """The manifest of a quantized model whose files are whole.

    Raises:
        ArtifactMissingError, ArtifactCorruptError: a file is not there, or not the one that was written.
    """
    fields = store.read_json(f"{_folder(arithmetic)}/{MANIFEST}", required=("encoder_digest", "sha256"))
    quantized = QuantizedEncoder(**fields)
    for name, digest in quantized.sha256.items():
        found = digest_of_file(store.local_file(f"{_folder(arithmetic)}/{name}"))
        if found != digest:
            raise _corrupt(store, arithmetic, f"{name} with SHA-256 {found[:12]} in place of {digest[:12]}")
    return quantized


def _quantize(store: Store, encoder_digest: str, corpus: CorpusManifest, folder: Path) -> QuantizedEncoder:
    openvino, nncf = require_package("openvino"), require_package("nncf")
    encoder = get_encoder(store, encoder_digest)
    batches = _calibration_batches(_calibration_rows(store, corpus, encoder), encoder)
    nncf.set_log_level(logging.WARNING)
    with contextlib.redirect_stdout(sys.stderr):  # where NNCF's progress belongs
        model = nncf.quantize(
            _exported(openvino, encoder, batches[0]),
            nncf.Dataset(batches),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(batches),
            ignored_scope=nncf.IgnoredScope(patterns=_kept_in_fp32(encoder.embedder.config)),
        )
    openvino.save_model(model, folder / MODEL, compress_to_fp16=False)
    quantized = QuantizedEncoder(
        encoder_digest=encoder_digest,
        corpus_digest=corpus.digest,
        num_calibration_blocks=sum(len(lengths_B1) for _, _, lengths_B1 in batches),
        openvino=openvino.__version__,
        nncf=nncf.__version__,
        sha256={name: digest_of_file(folder / name) for name in (MODEL, WEIGHTS)},
    )
    (folder / MANIFEST).write_text(json.dumps(asdict(quantized), indent=2) + "\n")
    return quantized


def _kept_in_fp32(config: RealmConfig) -> list[str]:
    """What is computed for [CLS] alone: it takes no time, and embeddings come out twice as close."""
    last = rf".*layer\.{config.num_hidden_layers - 1}\."
    own = [last + part for part in (r"attention\.self\.query.*", r"attention\.output.*", "intermediate.*", "output.*")]
    return [r".*embedder\.cls\..*", r".*\.pooler\..*", *own]


def _exported(openvino: Any, encoder: LoadedEncoder, example: tuple[np.ndarray, ...]) -> Any:  # noqa: ANN401
    import torch

    from realm_core.engines.exported_embedder import ExportedEmbedder

    model = ExportedEmbedder(encoder.embedder)
    inputs = tuple(torch.from_numpy(array) for array in example)
    with torch.no_grad(), _quiet_transformers():
        return openvino.convert_model(model, example_input=inputs)


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """The tracer reads every attribute of the model, deprecated and unused ones as well, which warn."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _calibration_rows(store: Store, corpus: CorpusManifest, encoder: LoadedEncoder) -> TokenRows:
    """Blocks evenly spread over a few parts, which are evenly spread over the corpus."""
    titles: list[np.ndarray] = []
    bodies: list[np.ndarray] = []
    for part in _spread(corpus.parts, NUM_CALIBRATION_PARTS):
        table = read_part(store, part, ["title_token_ids", "body_token_ids"])
        for row in _spread(range(table.num_rows), NUM_CALIBRATION_BLOCKS // NUM_CALIBRATION_PARTS):
            titles.append(np.array(table["title_token_ids"][row].as_py(), dtype=np.uint16))
            bodies.append(np.array(table["body_token_ids"][row].as_py(), dtype=np.uint16))
    return rows_of_blocks(titles, bodies, encoder.token_id("[CLS]"), encoder.token_id("[SEP]"))


def _spread(values: Sequence[Value], count: int) -> list[Value]:
    """So many values, or all of them, evenly spread."""
    places = np.unique(np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int))
    return [values[place] for place in places]


def _calibration_batches(rows: TokenRows, encoder: LoadedEncoder) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The rows in the shapes that the engine will run, without dummies: these would count as text."""
    grid = ShapeGrid(
        bucket_step_tokens=BUCKET_STEP_TOKENS,
        max_tokens_per_batch=TOKENS_PER_BATCH,
        max_length_tokens=encoder.embedder.config.max_position_embeddings,
    )
    starts_R = rows.starts_R
    return [
        padded_tokens(rows, starts_R, replace(batch, num_rows=len(batch.indices)))
        for batch in plan_batches(rows.lengths_R, grid)
    ]


def _is_whole(store: Store, arithmetic: str) -> bool:
    try:
        read_quantized(store, arithmetic)
    except (ArtifactMissingError, ArtifactCorruptError):
        return False
    return True


def _folder(arithmetic: str) -> str:
    return f"quantized/{arithmetic}"


def _pointer(encoder_digest: str) -> str:
    return f"quantized/of-{encoder_digest}.json"


def _corrupt(store: Store, arithmetic: str, found: str) -> ArtifactCorruptError:
    return ArtifactCorruptError(
        where=f"{store.url}/{_folder(arithmetic)}",
        found=found,
        expected="the files that quantized.json names",
        action="Run `realm embed --precision int8` again; it makes only what is missing.",
    )
