"""Text to query embeddings, always with the encoder of the snapshot that is searched."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import numpy as np

from realm_core.engines.loading import engine_of
from realm_core.errors import EncoderError, ServiceUnavailableError
from realm_core.modeling.checkpoints import tokenizer_digest
from realm_core.storage.block_store import load_corpus
from realm_core.storage.encoder_store import get_encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tokenizers import Tokenizer

    from realm_core.engines.torch_engine import TorchEngine
    from realm_core.retrieval.snapshot_search import SearchResult, SnapshotSearch
    from realm_core.retrieval.uid_exclusion import Uids
    from realm_core.storage.files import Store
    from realm_core.storage.snapshots import SnapshotManifest

MAX_QUERY_TOKENS = 94
"""Word pieces of a query without its two markers; the paper's query length is 96. Longer queries are cut."""
MAX_SWAPS_DURING_A_SEARCH = 8
LEAST_SECONDS = 0.01
"""What a search is given at least when encoding has used up the time: it then says itself that it is late."""


class QueryEncoder:
    """Encodes and searches as one step: a swap between the two is noticed, and the query encoded again.

    May be used by several threads: they encode one after the other and search at the same time.
    """

    def __init__(self, store: Store, search: SnapshotSearch, *, device: str = "cpu") -> None:
        self._store = store
        self._search = search
        self._device = device
        self._snapshot: SnapshotManifest | None = None
        self._engine: TorchEngine | None = None
        self._tokenizer: Tokenizer | None = None
        self._lock = threading.Lock()

    def search_text(
        self,
        texts: Sequence[str],
        num_hits: int,
        *,
        deadline_seconds: float = 30.0,
        exclude_uids: Sequence[Uids] | None = None,
    ) -> SearchResult:
        """Top hits of B texts [B, K]; `exclude_uids` as `SnapshotSearch.search` takes them."""
        return self._search_encoded(
            lambda: self._encode_texts(texts),
            num_hits,
            snapshot=None,
            deadline_seconds=deadline_seconds,
            exclude_uids=exclude_uids,
        )

    def search_token_ids(
        self,
        token_ids: Sequence[Sequence[int]],
        num_hits: int,
        *,
        deadline_seconds: float = 30.0,
        exclude_uids: Sequence[Uids] | None = None,
    ) -> SearchResult:
        """Top hits of B tokenized queries [B, K], without their markers.

        Takes the snapshot of the last search for live, without asking; the answer says if it is not.
        """
        arrays = [np.asarray(ids, dtype=np.uint16) for ids in token_ids]
        return self._search_encoded(
            lambda: self._encode(arrays),
            num_hits,
            snapshot=self._snapshot,
            deadline_seconds=deadline_seconds,
            exclude_uids=exclude_uids,
        )

    def _search_encoded(
        self,
        encode: Callable[[], np.ndarray],
        num_hits: int,
        *,
        snapshot: SnapshotManifest | None,
        deadline_seconds: float,
        exclude_uids: Sequence[Uids] | None,
    ) -> SearchResult:
        deadline = time.monotonic() + deadline_seconds
        for _ in range(MAX_SWAPS_DURING_A_SEARCH):
            snapshot = snapshot or self._search.live_snapshot(deadline_seconds=deadline_seconds)
            with self._lock:
                self._use(snapshot)
                queries_BD = encode()
            seconds_left = max(LEAST_SECONDS, deadline - time.monotonic())
            result = self._search.search(queries_BD, num_hits, deadline_seconds=seconds_left, exclude_uids=exclude_uids)
            if result.snapshot_id == snapshot.snapshot_id:
                return result
            snapshot = None
        raise ServiceUnavailableError(
            where="search",
            found=f"the live snapshot changed {MAX_SWAPS_DURING_A_SEARCH} times while one query was encoded",
            expected="swaps further apart than a query takes",
            action="Raise the refresh interval.",
        )

    def _encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        assert self._tokenizer is not None
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return self._encode([np.asarray(encoding.ids[:MAX_QUERY_TOKENS], dtype=np.uint16) for encoding in encodings])

    def _encode(self, token_ids: Sequence[np.ndarray]) -> np.ndarray:
        assert self._engine is not None
        return self._engine.encode_queries(token_ids)

    def _use(self, snapshot: SnapshotManifest) -> None:
        if self._snapshot is not None and self._snapshot.snapshot_id == snapshot.snapshot_id:
            return
        if self._engine is None or self._snapshot is None or self._snapshot.encoder_digest != snapshot.encoder_digest:
            encoder = get_encoder(self._store, snapshot.encoder_digest)
            corpus = load_corpus(self._store, snapshot.corpus_digest)
            require_same_tokenizer(tokenizer_digest(encoder.tokenizer), corpus.tokenizer_digest)
            self._engine = engine_of(encoder, device=self._device)
            self._tokenizer = encoder.tokenizer
        self._snapshot = snapshot


def require_same_tokenizer(encoder_tokenizer_digest: str, corpus_tokenizer_digest: str) -> None:
    """Raises `EncoderError` when the corpus was tokenized with another vocabulary than the encoder's."""
    if encoder_tokenizer_digest != corpus_tokenizer_digest:
        raise EncoderError(
            where="encoder",
            found=f"tokenizer {encoder_tokenizer_digest[:12]}",
            expected=f"tokenizer {corpus_tokenizer_digest[:12]}, with which the corpus was ingested",
            action="Use an encoder with that vocabulary, or ingest the corpus into another --store with this one.",
        )
