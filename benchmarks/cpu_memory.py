"""What becomes of the pages that a tensor leaves on CPUs."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Numbers of mallopt(3)."""


def keep_freed_memory() -> None:
    """Lets glibc's allocator keep what tensors leave, in this process, from now on: the next finds it mapped already.

    For models so small that the system's mapping of pages takes longer than arithmetic: a step of a BERT of two layers
    128 wide, whose largest tensors are the vocabulary's, took 1.2 s without it and 0.66 s with it. Elsewhere than on
    Linux with glibc nothing is changed.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
