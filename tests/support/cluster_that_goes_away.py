"""A driver whose cluster ends while it has a client of the service: `python -m support.cluster_that_goes_away HOW`."""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from support.snapshots import DIMENSION, SyntheticStore

from cluster.retrieval_service import start_service
from cluster.session import ray_session
from realm_core.errors import ServiceError

DEADLINE_SECONDS = 3.0


def main(how):
    with tempfile.TemporaryDirectory() as folder:
        filled = SyntheticStore(Path(folder))
        filled.publish(seed=0, step=0)
        queries = np.ones((1, DIMENSION), np.float32)
        with ray_session():
            client = start_service(filled.store)
            client.search(queries, 1)
            if how == "killed":
                for process in psutil.Process().children(recursive=True):
                    process.kill()
                search(client, queries)
        if how == "left":
            search(client, queries)


def search(client, queries):
    started = time.monotonic()
    try:
        client.search(queries, 1, deadline_seconds=DEADLINE_SECONDS)
    except ServiceError as error:
        is_in_time = time.monotonic() - started < 3 * DEADLINE_SECONDS
        print(type(error).__name__, "in time" if is_in_time else "too late", error, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
