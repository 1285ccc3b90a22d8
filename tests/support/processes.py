"""Finding and ending the processes of a test, and no others."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil


def embedding_actors(pid=None):
    """Process ids of the embedding actors under a process (this one by default), whatever they are at."""
    return actors("EmbeddingWorker", pid)


def actors(class_name, pid=None):
    """Process ids of the actors of a class under a process (this one by default), whatever they are at."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):  # it ended meanwhile
            if "".join(process.cmdline()[:1]).startswith(f"ray::{class_name}"):
                found.append(process.pid)
    return found


def is_embedding(pid):
    """Ray names a process after the method that it runs."""
    try:
        return b".embed" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill(pid):
    """False when it was gone already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def end_all(processes, seconds):
    """Those of the processes that do not end by themselves in so many seconds; they are killed."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    for process in alive:
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            process.kill()
    return alive
