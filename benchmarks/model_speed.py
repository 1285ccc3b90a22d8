"""Time of each REALM class against transformers 4.40.2: `python -m benchmarks.model_speed`.

A forward pass is in evaluation mode without gradients; a step is forward in training mode with dropout 0.1, backward,
AdamW, zero_grad. Texts have real lengths and are padded to the class's usual width. The last line is JSON:
`forward_time_vs_hf` and `step_time_vs_hf`, ours / 4.40.2, are geometric means over the classes.
About ten minutes on two cores.
"""

from __future__ import annotations

from benchmarks.model_cases import HEADLINE
from benchmarks.model_tables import Plan, print_json, rounded, run_benchmark
from benchmarks.side_by_side import Comparison, comparisons_of, geometric_mean

PLAN = Plan(program="benchmarks.model_speed", description=__doc__, left_out=HEADLINE, num_rounds=2, num_forward_runs=2)
"""The step without padding is left to the memory benchmark, which also times it."""


def main() -> None:
    """Measures and prints."""
    comparisons = run_benchmark(PLAN)
    print_json(summary(comparisons))


def summary(comparisons: list[Comparison]) -> dict[str, object]:
    """The last line: ratios of time, ours / theirs; null where no case was run."""
    forward, step = (comparisons_of(comparisons, mode) for mode in ("forward", "step"))
    return {
        "forward_time_vs_hf": rounded(geometric_mean(c.time_ratio for c in forward)),
        "step_time_vs_hf": rounded(geometric_mean(c.time_ratio for c in step)),
        "time_ratios": {c.case.name: rounded(c.time_ratio) for c in comparisons},
    }


if __name__ == "__main__":
    main()
