"""The plot of latencies through swaps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from benchmarks.serve_load import Load


def plot_swaps(load: Load, file: Path) -> None:
    """Each search's latency over time; the swaps shaded."""
    import matplotlib.pyplot as plt

    origin = min(load.started)
    times, milliseconds = np.array(load.started) - origin, 1e3 * np.array(load.seconds)
    figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
    for number, (begin, end) in enumerate(load.swaps):
        axes.axvspan(begin - origin, end - origin, color="tab:orange", alpha=0.25, lw=0, label="" if number else "swap")
    axes.scatter(times, milliseconds, s=1.5, alpha=0.3, color="tab:blue", rasterized=True, label="one search")
    axes.set(xlabel="seconds", ylabel="milliseconds", yscale="log")
    counts = f"{load.num_failures} failed, {load.num_mixed} mixed"
    axes.set_title(f"{len(load.seconds):,} searches through {len(load.swaps)} swaps: {counts}")
    axes.legend(loc="upper right", markerscale=6)
    axes.grid(alpha=0.3, which="both")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)
