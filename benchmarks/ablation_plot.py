"""One plot: recall@5 over pre-training steps, a line per row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.ablation_presets import ICT, ICT_LABEL, ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

STYLES = {"realm": "o-", "random_uniform": "s--", "random_span": "^--", "stale_30x": "v:", "no_null": "D-."}


def plot_curves(results: Mapping[str, list[dict[str, Any]]], file: Path) -> None:
    """Mean over seeds, with the standard deviation as a band; the warm-up is the level line."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    start = float(np.mean([result["recall_at_5"] for result in results[ICT]]))
    axes.axhline(start, color="black", linewidth=1, label=ICT_LABEL)
    for name, style in STYLES.items():
        if name not in results:
            continue
        curves = np.array([result["curve"] for result in results[name]])
        steps, mean, spread = curves[0, :, 0], curves[:, :, 1].mean(axis=0), curves[:, :, 1].std(axis=0)
        (line,) = axes.plot(steps, mean, style, markersize=5, label=ROWS[name].label)
        axes.fill_between(steps, mean - spread, mean + spread, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="pre-training step", ylabel="zero-shot recall@5")
    axes.set_title(f"SQuAD's validation questions, {len(results[ICT])} seed(s)")
    axes.legend()
    axes.grid(alpha=0.3)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)
