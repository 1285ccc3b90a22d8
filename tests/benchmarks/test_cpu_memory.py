import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import torch
if sys.argv[1] == "kept":
    from benchmarks.cpu_memory import keep_freed_memory
    keep_freed_memory()

def resident_bytes():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024

before = resident_bytes()
large = torch.ones(25_000_000)
del large
print(resident_bytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of memory")
def test_what_tensors_leave_stays_where_that_is_asked_for():
    """A tensor of 100 MB is freed."""
    left = {
        how: int(subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True).stdout)
        for how in ("default", "kept")
    }
    assert left["default"] < 20_000_000 < 90_000_000 < left["kept"]
