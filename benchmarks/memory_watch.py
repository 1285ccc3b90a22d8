"""Peak memory of a set of processes: the sum of their proportional set sizes, so that shared pages count once."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SECONDS_BETWEEN_LOOKS = 1.0


class MemoryWatch:
    """Looks once a second; a context manager. Mapped pages of index files are counted where a process has them."""

    def __init__(self, processes: Callable[[], Iterable[psutil.Process]]) -> None:
        self._processes = processes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.peak_bytes = 0

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def peak_gb(self) -> float:
        """In units of 10^9 bytes."""
        return self.peak_bytes / 1e9

    def _run(self) -> None:
        while not self._stop.is_set():
            self.peak_bytes = max(self.peak_bytes, sum(map(_pss, self._processes())))
            self._stop.wait(SECONDS_BETWEEN_LOOKS)


def process_tree() -> list[psutil.Process]:
    """This process and all that it started, Ray's included."""
    process = psutil.Process(os.getpid())
    return [process, *process.children(recursive=True)]


def with_ids(pids: Iterable[int]) -> list[psutil.Process]:
    """Those that run."""
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return found


def _pss(process: psutil.Process) -> int:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
        return int(process.memory_full_info().pss)
    return 0
