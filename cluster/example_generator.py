"""Example generators as actors: each keeps a bounded queue of batches ready for one trainer rank."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

from cluster.retrieval.shard_processes import LOAD_TIMEOUT_SECONDS
from cluster.retrieval_service import RetrievalClient

if TYPE_CHECKING:
    from realm_core.training.example_generator import ExampleGenerator, GeneratedBatch
    from realm_core.training.featurization import FeaturizerConfig, SpecialTokens
    from realm_core.training.masked_queries import Masking

QUEUE_BATCHES = 2
"""Batches kept ready: enough to hide a search, few enough that a swap reaches the trainer soon."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """What one rank's generator makes."""

    store_url: str
    corpus_digest: str
    seed: int
    rank: int
    num_ranks: int
    batch_size: int
    featurizer: FeaturizerConfig
    masking: Masking
    special: SpecialTokens


class BatchQueue:
    """Makes batches ahead in a thread, from a position on; asking for another position starts over there."""

    def __init__(self, generator: ExampleGenerator) -> None:
        self._generator = generator
        self._ready: queue.Queue[GeneratedBatch | BaseException] = queue.Queue(maxsize=QUEUE_BATCHES)
        self._next_position: int | None = None
        self._stop = threading.Event()

    def batch_at(self, position: int) -> tuple[GeneratedBatch, int]:
        """The batch at the position, and how many were ready when it was asked for."""
        if position != self._next_position:
            self._restart(position)
        num_ready = self._ready.qsize()
        item = self._ready.get()
        if isinstance(item, BaseException):
            self._next_position = None
            raise item
        self._next_position = item.next_position
        return item, num_ready

    def _restart(self, position: int) -> None:
        self._stop.set()
        self._stop = threading.Event()
        self._ready = queue.Queue(maxsize=QUEUE_BATCHES)
        thread = threading.Thread(target=self._make, args=(position, self._stop, self._ready), daemon=True)
        thread.start()

    def _make(self, position: int, stop: threading.Event, ready: queue.Queue[GeneratedBatch | BaseException]) -> None:
        while not stop.is_set():
            item: GeneratedBatch | BaseException
            try:
                item = self._generator.batch_at(position)
            except Exception as error:  # noqa: BLE001 - handed to the trainer, which raises it
                _put_unless_stopped(ready, error, stop)
                return
            _put_unless_stopped(ready, item, stop)
            position = item.next_position


class ExampleGeneratorWorker:
    """`BatchQueue` in a process of its own; killed and restarted, it answers the same call the same way."""

    def __init__(self, config: GeneratorConfig) -> None:
        import torch

        torch.set_num_threads(1)
        self._config = config
        self._queue: BatchQueue | None = None

    def batch_at(self, position: int) -> tuple[GeneratedBatch, int]:
        """See `BatchQueue.batch_at`."""
        if self._queue is None:
            self._queue = BatchQueue(_make_generator(self._config))
        return self._queue.batch_at(position)


ExampleGeneratorActor: Any = ray.remote(ExampleGeneratorWorker)


def _make_generator(config: GeneratorConfig) -> ExampleGenerator:
    from realm_core.retrieval.query_encoder import QueryEncoder
    from realm_core.storage.block_store import BlockRecords, load_corpus
    from realm_core.storage.files import Store
    from realm_core.training.example_generator import DataOrder, ExampleGenerator

    store = Store(config.store_url)
    records = BlockRecords(store, load_corpus(store, config.corpus_digest))
    return ExampleGenerator(
        records=records,
        searcher=QueryEncoder(store, RetrievalClient.connect(timeout_seconds=LOAD_TIMEOUT_SECONDS)),
        order=DataOrder(num_blocks=len(records), seed=config.seed, rank=config.rank, num_ranks=config.num_ranks),
        batch_size=config.batch_size,
        featurizer=config.featurizer,
        special=config.special,
        masking=config.masking,
    )


def _put_unless_stopped(
    ready: queue.Queue[GeneratedBatch | BaseException], item: GeneratedBatch | BaseException, stop: threading.Event
) -> None:
    while not stop.is_set():
        try:
            ready.put(item, timeout=1.0)
        except queue.Full:
            continue
        return
