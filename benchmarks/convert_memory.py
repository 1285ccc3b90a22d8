"""Memory and speed of reading published block records: `python -m benchmarks.convert_memory`.

Writes a synthetic `block_records.npy` of the published size, 13,353,718 records in some 12 GB, into a temporary
folder, and reads all of it in a process of its own. `--convert-records N` also runs `realm convert` on a model of N
records. The last line is JSON. Memory is the resident set of a process at its peak; the workers of a conversion are
counted together.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.published_records import NUM_PUBLISHED_RECORDS, write_block_records, write_model

READ = """
import sys, time
from realm_core.corpora.block_records_npy import read_block_records
started, num_records, num_bytes = time.monotonic(), 0, 0
for batch in read_block_records(sys.argv[1]):
    num_records += len(batch)
    num_bytes += sum(map(len, batch))
print(num_records, num_bytes, time.monotonic() - started, flush=True)
sys.stdin.readline()
"""
"""Ends when a line has come in, so that its peak memory can be looked up before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertBenchmarkConfig:
    """Read a synthetic block_records.npy as a stream, and convert a smaller model, measuring speed and memory."""

    records: int = NUM_PUBLISHED_RECORDS
    """Records to read."""
    mean_bytes: int = 900
    """Mean length of a record; some 200 word pieces."""
    convert_records: int = 0
    """Records of a model to run `realm convert` on; 0 leaves that out."""
    num_layers: int = 12
    """Layers of that model; weights are loaded, nothing is encoded."""
    hidden_size: int = 768
    """Hidden size of that model."""
    folder: Path | None = None
    """Where the temporary folder goes; by default where the system keeps them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One run over the records."""

    name: str
    num_records: int
    num_bytes: int
    seconds: float
    peak_bytes: int
    """Of the process that was started."""
    worker_peak_bytes: int = 0
    """Of the processes that it started, together."""

    @property
    def records_per_second(self) -> float:
        """Speed."""
        return self.num_records / self.seconds


def main() -> None:
    """Measures and prints."""
    config = tyro.cli(ConvertBenchmarkConfig, prog="python -m benchmarks.convert_memory", description=__doc__)
    with tempfile.TemporaryDirectory(prefix="realm-convert-", dir=config.folder) as name:
        measurements = [measure_reading(Path(name) / "block_records.npy", config.records, config.mean_bytes)]
        if config.convert_records:
            measurements.append(measure_converting(Path(name), config))
    print_table(measurements)
    print(json.dumps({m.name: summary(m) for m in measurements}))


def measure_reading(file: Path, num_records: int, mean_bytes: int) -> Measurement:
    """Writes the records, reads them in a fresh process, and removes them."""
    write_block_records(file, num_records, mean_bytes)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with psutil.Popen([sys.executable, "-c", READ, str(file)], text=True, **pipes) as process:
        num_read, num_bytes, seconds = process.stdout.readline().split()
        peak_bytes = _peak_bytes(process)
        process.communicate("done\n")
    file.unlink()
    assert int(num_read) == num_records, f"{num_read} records were read"
    return Measurement(
        name="read",
        num_records=num_records,
        num_bytes=int(num_bytes),
        seconds=float(seconds),
        peak_bytes=peak_bytes,
    )


def measure_converting(folder: Path, config: ConvertBenchmarkConfig) -> Measurement:
    """Writes a model and converts it into a store of its own."""
    model, num_records = folder / "model", config.convert_records
    model.mkdir()
    write_model(model, num_records, num_layers=config.num_layers, hidden_size=config.hidden_size)
    write_block_records(model / "block_records.npy", num_records, config.mean_bytes)
    num_bytes = (model / "block_records.npy").stat().st_size
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "convert",
        "--model",
        str(model),
        "--store",
        str(folder / "store"),
    ]
    started = time.monotonic()
    process = psutil.Popen(command)
    peak_bytes, worker_peak_bytes = _watch(process)
    assert process.returncode == 0, "realm convert failed"
    return Measurement(
        name="convert",
        num_records=num_records,
        num_bytes=num_bytes,
        seconds=time.monotonic() - started,
        peak_bytes=peak_bytes,
        worker_peak_bytes=worker_peak_bytes,
    )


def _watch(process: psutil.Popen) -> tuple[int, int]:
    """Peak resident bytes of a process, and of all that it started, seen every half second until it ends."""
    own, of_children = 0, 0
    while process.poll() is None:
        try:
            own = max(own, _peak_bytes(process))
            of_children = max(of_children, sum(_private_bytes(child) for child in process.children(recursive=True)))
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.5)
    return own, of_children


def _peak_bytes(process: psutil.Process) -> int:
    """The most that a process has had in memory; on systems that do not tell, what it has now."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        return int(process.memory_info().rss)
    lines = [line.split() for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(lines[0][1]) if lines else 0


def _private_bytes(process: psutil.Process) -> int:
    """Memory that is its own: the object store, which all share, counts in the process that was started."""
    try:
        memory = process.memory_info()
    except psutil.NoSuchProcess:
        return 0
    return int(memory.rss - getattr(memory, "shared", 0))


def print_table(measurements: list[Measurement]) -> None:
    """One row per run."""
    table = Table(title="published block records")
    for column in ("run", "records", "GB", "seconds", "records/s", "peak MB", "its workers, MB"):
        table.add_column(column, justify="right" if column != "run" else "left")
    for m in measurements:
        table.add_row(
            m.name,
            f"{m.num_records:,}",
            f"{m.num_bytes / 1e9:.2f}",
            f"{m.seconds:.1f}",
            f"{m.records_per_second:,.0f}",
            f"{m.peak_bytes / 1e6:,.0f}",
            f"{m.worker_peak_bytes / 1e6:,.0f}" if m.worker_peak_bytes else "",
        )
    Console(width=110).print(table)


def summary(m: Measurement) -> dict[str, float]:
    """What the last line says of a run."""
    return {
        "num_records": m.num_records,
        "records_per_second": round(m.records_per_second),
        "peak_bytes": m.peak_bytes,
        "worker_peak_bytes": m.worker_peak_bytes,
    }


if __name__ == "__main__":
    main()
