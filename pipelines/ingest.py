"""`realm ingest`: a dump in, block records out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from cluster.ingesting import ingest_source
from cluster.session import cluster_capacity, ray_session
from pipelines.configs.ingest import IngestConfig
from pipelines.display import Display, say
from pipelines.encoders import require_usable_encoder
from realm_core.corpora.source import open_source
from realm_core.errors import StoreError
from realm_core.modeling.checkpoints import load_tokenizer, tokenizer_digest
from realm_core.storage.block_store import CorpusManifest, load_corpus, part_is_whole, save_corpus
from realm_core.storage.digests import digest_of
from realm_core.storage.files import Store
from realm_core.storage.lock import writer_lock

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from cluster.ingesting import IngestedCorpus
    from realm_core.corpora.source import Source

INGEST_RULES = 1
"""Raised when cleaning, sentence, blocking or span rules change, so that a rerun does not take old blocks for new."""

COMPRESSED_BYTES_PER_PART = 24_000_000
PLAIN_BYTES_PER_PART = 110_000_000
"""An English Wikipedia export of 90 GB (20 GB in bzip2) has 13.4 million blocks, 815 parts of 16,384."""
MIN_PARTS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestReport:
    """Counts that add up: pages = documents + redirects + other namespaces + dropped by title + empty.

    With `--blocks paragraphs` also: paragraphs = blocks + duplicate blocks + empty paragraphs.
    """

    corpus_digest: str
    counts: dict[str, int]
    num_parts: int
    num_blocks: int
    num_tokens: int
    was_done: bool

    def rows(self) -> list[tuple[str, object]]:
        """For the table at the end."""
        named = [(name.replace("_", " "), value) for name, value in self.counts.items()]
        return [
            *named,
            ("parts", self.num_parts),
            ("blocks", self.num_blocks),
            ("word pieces", self.num_tokens),
            ("corpus", self.corpus_digest[:12] + (" (was there already)" if self.was_done else "")),
        ]


def run_ingest(config: IngestConfig) -> IngestReport:
    """Ingests the source, unless the store holds what it would make.

    Raises:
        SourceError: nothing, no dump, or a truncated one; the store is left as it was.
        StoreLockedError: another run is writing the store.
    """
    store = Store(config.store)
    source = open_source(config.source, keep_all_titles=config.keep_all_titles)
    tokenizer = load_tokenizer(require_usable_encoder(config.encoder))
    with writer_lock(store, "realm ingest"):
        num_parts = config.num_parts or _usual_num_parts(store, source)
        key = _key(config, source, tokenizer, num_parts)
        done = _finished(store, key)
        if done is not None:
            save_corpus(store, done)
            return _report(done, was_done=True)
        manifest = _ingest(config, store, source, tokenizer, num_parts)
        save_corpus(store, manifest)
        store.write_json(f"ingests/{key}.json", {"corpus": manifest.digest})
        return _report(manifest, was_done=False)


def _key(config: IngestConfig, source: Source, tokenizer: Tokenizer, num_parts: int) -> str:
    """Names what an ingest makes. Choices enter it where they depart from the default, so old names stay valid."""
    chosen = {
        name: value
        for name, value, default in (
            ("blocks", config.blocks, "sentences"),
            ("keep_all_titles", config.keep_all_titles, False),
        )
        if value != default
    }
    rules = (INGEST_RULES, source.digest(), tokenizer_digest(tokenizer), config.max_block_tokens, num_parts)
    return digest_of(*rules, *([chosen] if chosen else []))


def _usual_num_parts(store: Store, source: Source) -> int:
    """The parts of the store's corpus, so that unchanged documents keep theirs; else by the source's size."""
    if store.exists("corpora/PARTS"):
        return int(store.read_json("corpora/PARTS")["num_parts"])
    per_part = PLAIN_BYTES_PER_PART if source.compression == "none" else COMPRESSED_BYTES_PER_PART
    return max(MIN_PARTS, -(-(source.total_bytes or 0) // per_part))


def _finished(store: Store, key: str) -> CorpusManifest | None:
    """The corpus that this source, vocabulary and block length gave before, when all its parts are whole."""
    if not store.exists(f"ingests/{key}.json"):
        return None
    try:
        manifest = load_corpus(store, store.read_json(f"ingests/{key}.json")["corpus"])
    except StoreError as error:
        say(f"ingest: made again, because {error}")
        return None
    damaged = [part.digest[:12] for part in manifest.parts if not part_is_whole(store, part.digest)]
    if damaged:
        say(f"ingest: made again, because parts are missing or damaged: {', '.join(damaged)}")
        return None
    return manifest


def _ingest(config: IngestConfig, store: Store, source: Source, tokenizer: Tokenizer, num_parts: int) -> CorpusManifest:
    with ray_session(config.address), Display() as display:
        bar = display.task("ingest", total=source.total_bytes, unit="bytes")

        def show(_: int) -> None:
            read_bytes = source.position_bytes  # of a small file all are read before its first document is done
            bar.update(min(read_bytes, (source.total_bytes or read_bytes + 1) - 1), note=_documents(source))

        ingested = ingest_source(
            source,
            store,
            tokenizer=tokenizer,
            max_block_tokens=config.max_block_tokens,
            block_rule=config.blocks,
            num_parts=num_parts,
            num_cpus=cluster_capacity()[0],
            progress=show,
        )
        bar.update(source.total_bytes or source.position_bytes, note=_documents(source))
    store.write_json("corpora/PARTS", {"num_parts": num_parts})
    return CorpusManifest(
        parts=ingested.written.parts,
        tokenizer_digest=tokenizer_digest(tokenizer),
        max_block_tokens=config.max_block_tokens,
        uid_digest=ingested.written.uid_digest,
        source=source.url,
        counts=_counts(source, ingested),
        block_rule=config.blocks,
    )


def _documents(source: Source) -> str:
    return f"{source.counts.documents:,} documents"


def _counts(source: Source, ingested: IngestedCorpus) -> dict[str, int]:
    of_paragraphs = asdict(ingested.paragraph_counts) if ingested.paragraph_counts else {}
    return {**asdict(source.counts), **of_paragraphs, "duplicate_blocks": ingested.written.num_duplicate_blocks}


def _report(manifest: CorpusManifest, *, was_done: bool) -> IngestReport:
    return IngestReport(
        corpus_digest=manifest.digest,
        counts=manifest.counts,
        num_parts=len(manifest.parts),
        num_blocks=manifest.num_blocks,
        num_tokens=sum(part.num_tokens for part in manifest.parts),
        was_done=was_done,
    )
