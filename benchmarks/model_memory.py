"""Peak memory of each REALM class against transformers 4.40.2: `python -m benchmarks.model_memory`.

Memory is that of the whole process at its peak, with an optimizer's moments in place. The last line is JSON:
`step_peak_memory_vs_hf` is that of a training step of the knowledge-augmented encoder on 2 queries x 8 candidates x 384
tokens without padding, for which 4.40.2 needs some 15 GB. About six minutes on two cores.
"""

from __future__ import annotations

from benchmarks.model_cases import OPEN_QA_BATCH
from benchmarks.model_tables import Plan, print_json, rounded, run_benchmark
from benchmarks.side_by_side import Comparison

PLAN = Plan(
    program="benchmarks.model_memory", description=__doc__, left_out=OPEN_QA_BATCH, num_rounds=1, num_forward_runs=1
)


def main() -> None:
    """Measures and prints."""
    comparisons = run_benchmark(PLAN)  # its seconds are of one cold run: model_speed is the one to quote
    print_json(summary(comparisons))


def summary(comparisons: list[Comparison]) -> dict[str, object]:
    """The last line: ratios of peak memory, ours / theirs; null where the headline was not run."""
    headline = [c.memory_ratio for c in comparisons if c.case.is_headline]
    return {
        "step_peak_memory_vs_hf": rounded(headline[0]) if headline else None,
        "peak_memory_ratios": {c.case.name: rounded(c.memory_ratio) for c in comparisons},
    }


if __name__ == "__main__":
    main()
