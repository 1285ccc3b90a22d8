"""`realm convert`: a published REALM model in, an encoder, a reader, block records and their embeddings out."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.converting import ConversionRules, ConvertedRecords, convert_records, object_store_bytes
from cluster.session import cluster_capacity, ray_session
from pipelines.configs.convert import ConvertConfig
from pipelines.display import Display
from realm_core.conversion.part_converter import PartSource, PublishedEmbeddings
from realm_core.conversion.published_model import (
    BLOCK_RECORDS,
    BlockEmbeddings,
    PublishedModel,
    open_published_model,
    parts_of_records,
    published_precision,
)
from realm_core.corpora.block_records_npy import num_block_records, read_block_records
from realm_core.errors import EncoderError, SourceError
from realm_core.modeling.checkpoints import load_encoder, load_open_qa, load_tokenizer, tokenizer_digest
from realm_core.retrieval.query_encoder import require_same_tokenizer
from realm_core.storage.block_store import CorpusManifest, load_corpus, save_corpus
from realm_core.storage.encoder_pointer import (
    EncoderVersion,
    current_encoder,
    has_current_encoder,
    set_current_encoder,
)
from realm_core.storage.encoder_store import has_encoder, put_encoder
from realm_core.storage.files import Store
from realm_core.storage.lock import writer_lock
from realm_core.storage.reader_store import ReaderVersion, put_reader, set_current_reader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenizers import Tokenizer

CANDIDATE_TOKENS = 288
"""Training reads so much of a block with its markers, as in ORQA; published blocks are no longer."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """An artifact of the store, and whether this run found it there."""

    digest: str
    was_there: bool


@dataclass(frozen=True, slots=True)
class ConvertedCorpus:
    """Converted records."""

    done: ConvertedRecords
    corpus: CorpusManifest
    precision: str | None
    """What the embeddings are named by; None where none were published."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertReport:
    """Counts that add up: records = converted + reused, block embeddings = written + reused."""

    encoder: str
    reader: str
    records: ConvertedCorpus | None
    seconds: float

    def rows(self) -> list[tuple[str, object]]:
        """For the table at the end."""
        return [
            ("encoder", self.encoder),
            ("reader", self.reader),
            *(_record_rows(self.records) if self.records else [("records", "none in this model")]),
            ("seconds", f"{self.seconds:.1f}"),
        ]


def _record_rows(records: ConvertedCorpus) -> list[tuple[str, object]]:
    done, num_parts = records.done, len(records.done.parts)
    embeddings = _sum("written", done.num_embeddings_written, done.num_embeddings_reused)
    return [
        ("records", _sum("converted", done.num_converted, done.num_reused)),
        ("truncated", f"{done.num_truncated:,} (word pieces beyond the encoder's positions; their texts are whole)"),
        ("parts", num_parts),
        ("word pieces", sum(part.num_tokens for part in done.parts)),
        ("corpus", records.corpus.digest[:12]),
        (
            "block embeddings",
            f"{embeddings}, {records.precision}" if records.precision else "none in this model: run `realm embed` next",
        ),
    ]


def _sum(verb: str, num_made: int, num_reused: int) -> str:
    return f"{num_made + num_reused:,} = {num_made:,} {verb} + {num_reused:,} reused"


def run_convert(config: ConvertConfig) -> ConvertReport:
    """Converts what the model has; a rerun after any crash does the rest.

    Raises:
        EncoderError: no REALM model, weights that cannot be read or ask for code, or block embeddings that are unfit.
        SourceError: block records that are missing where there are embeddings, damaged, or ask for code.
        StoreLockedError: another run is writing the store.
    """
    started, store = time.monotonic(), Store(config.store)
    model = open_published_model(config.model, with_block_records=config.block_records is None)
    file = Path(config.block_records) if config.block_records else model.block_records_file
    num_records = num_block_records(file) if file else 0
    _check(model, file, num_records)
    tokenizer = load_tokenizer(model.directory)
    with writer_lock(store, "realm convert"):
        if file is None:
            _check_corpus(store, tokenizer)
        encoder, reader = _convert_encoder(store, model), _convert_reader(store, model)
        records = _convert_records(config, store, model, tokenizer, file, encoder) if file else None
        _point(store, encoder, reader, records)
    return ConvertReport(
        encoder=_named(encoder, model),
        reader=_named(reader, model),
        records=records,
        seconds=time.monotonic() - started,
    )


def _check(model: PublishedModel, file: Path | None, num_records: int) -> None:
    """Raises what can be known before anything is written."""
    if model.has_block_embeddings and file is None:
        raise SourceError(
            where=str(model.directory),
            found=f"block embeddings without {BLOCK_RECORDS}",
            expected=f"the {BLOCK_RECORDS} that the model was published with",
            action="Copy it there, or give it with --block-records.",
        )
    if not model.has_embedder and file is None:
        raise EncoderError(
            where=str(model.directory),
            found=f"neither an embedder nor block records (a {model.architecture})",
            expected="a RealmEmbedder, RealmScorer or RealmForOpenQA, which a store can search with",
            action="Convert the -openqa, -embedder or -scorer model of the same name.",
        )
    if file is not None and num_records == 0:
        raise SourceError(
            where=str(file), found="no records", expected="at least one", action="Download or copy it again."
        )


def _check_corpus(store: Store, tokenizer: Tokenizer) -> None:
    """An encoder that comes alone must have the vocabulary of the corpus that is there."""
    if store.exists("corpora/CURRENT"):
        require_same_tokenizer(tokenizer_digest(tokenizer), load_corpus(store).tokenizer_digest)


def _convert_encoder(store: Store, model: PublishedModel) -> _Stored | None:
    if not model.has_embedder:
        return None
    loaded = load_encoder(model.directory)
    was_there = has_encoder(store, loaded.digest)
    return _Stored(put_encoder(store, loaded), was_there)


def _convert_reader(store: Store, model: PublishedModel) -> _Stored | None:
    if not model.has_reader:
        return None
    load_open_qa(model.directory)  # refuses incomplete weights before they are stored
    digest, is_new = put_reader(store, model.directory, model.reader_tensors())
    return _Stored(digest, not is_new)


def _convert_records(
    config: ConvertConfig,
    store: Store,
    model: PublishedModel,
    tokenizer: Tokenizer,
    file: Path,
    encoder: _Stored | None,
) -> ConvertedCorpus:
    num_records = num_block_records(file)
    with Display() as display:
        embeddings, names = None, None
        if model.has_block_embeddings and encoder is not None:
            embeddings = BlockEmbeddings(model.directory)
            names = _check_embeddings(embeddings, model, num_records, encoder, display)
        rules = ConversionRules(
            tokenizer_json=tokenizer.to_str(),
            max_block_tokens=model.max_block_tokens,
            embeddings=names,
            where=str(file),
        )
        with ray_session(config.address, object_store_bytes=object_store_bytes(os.cpu_count() or 1)):
            bar = display.task("convert", total=num_records, unit="records")
            done = convert_records(
                _sources(file, embeddings, config.rows_per_part),
                store,
                rules,
                num_cpus=cluster_capacity()[0],
                progress=lambda records, reused: bar.update(records, note=f"{reused:,} were there" if reused else ""),
            )
    corpus = CorpusManifest(
        parts=done.parts,
        tokenizer_digest=tokenizer_digest(tokenizer),
        max_block_tokens=min(CANDIDATE_TOKENS, model.max_block_tokens),
        uid_digest=done.uid_digest,
        source=config.block_records or f"{config.model}/{BLOCK_RECORDS}",
        counts={"records": num_records, "truncated": done.num_truncated},
    )
    return ConvertedCorpus(done, corpus, names.precision if names else None)


def _check_embeddings(
    embeddings: BlockEmbeddings, model: PublishedModel, num_records: int, encoder: _Stored, display: Display
) -> PublishedEmbeddings:
    """What names them, once every row has been looked at: minutes before the first part is made, not hours after."""
    bar = display.task("check", total=num_records, unit="embeddings")
    bar.update(0)
    sha256 = embeddings.check(num_records=num_records, dimension=model.dimension, progress=bar.update)
    return PublishedEmbeddings(encoder_digest=encoder.digest, precision=published_precision(sha256))


def _sources(file: Path, embeddings: BlockEmbeddings | None, rows_per_part: int) -> Iterator[PartSource]:
    start = 0
    for records in parts_of_records(read_block_records(file), rows_per_part):
        stop = start + len(records)
        rows_RD = embeddings.rows(start, stop) if embeddings else None
        yield PartSource(first_record=start, records=records, embeddings_RD=rows_RD)
        start = stop


def _point(store: Store, encoder: _Stored | None, reader: _Stored | None, records: ConvertedCorpus | None) -> None:
    """Makes what was converted the store's newest, now that all of it is there."""
    if records is not None:
        save_corpus(store, records.corpus)
    if encoder is not None:
        version = EncoderVersion(digest=encoder.digest, step=0, saved_at_seconds=time.time())
        if has_current_encoder(store) and current_encoder(store).digest == encoder.digest:
            version = current_encoder(store)
        precision = records.precision if records else None
        set_current_encoder(store, replace(version, published_precision=precision or version.published_precision))
    if encoder is not None and reader is not None:
        set_current_reader(store, ReaderVersion(digest=reader.digest, encoder_digest=encoder.digest))


def _named(stored: _Stored | None, model: PublishedModel) -> str:
    if stored is None:
        return f"none in this model (a {model.architecture})"
    return stored.digest[:12] + (" (was there already)" if stored.was_there else "")
