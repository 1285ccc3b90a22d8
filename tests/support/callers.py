"""Threads that search a service without a pause and look at every answer."""

import threading

import numpy as np
from support.snapshots import DIMENSION, exact_block_ids


class Callers:
    """`stores_by_step`: for each encoder step that may answer, the store whose `embeddings(step)` it was made of."""

    def __init__(self, client, stores_by_step, *, num_callers=3, deadline_seconds=30.0):
        self._client = client
        self._queries = np.random.default_rng(5).normal(size=(4, DIMENSION)).astype(np.float32)
        self._expected = {s: exact_block_ids(f.embeddings(s), self._queries, 5) for s, f in stores_by_step.items()}
        self._deadline_seconds = deadline_seconds
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(num_callers)]
        self.num_right = 0
        self.failures = []

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self):
        while not self._stop.is_set():
            try:
                result = self._client.search(self._queries, 5, deadline_seconds=self._deadline_seconds)
                np.testing.assert_array_equal(result.block_ids_BK, self._expected[result.encoder_step])
                self.num_right += 1
            except Exception as error:  # noqa: BLE001 - any failure counts
                self.failures.append(error)

    def assert_all_right(self, *, at_least):
        assert not self.failures, self.failures[:3]
        assert self.num_right >= at_least
