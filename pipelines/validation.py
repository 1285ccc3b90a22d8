"""Checks that configurations share."""

from __future__ import annotations

import math

from realm_core.errors import UsageError


def at_least(command: str, **bounds: tuple[float, float]) -> None:
    """Raises `UsageError` naming every option below its bound: `at_least("realm embed", num_workers=(n, 1))`."""
    low = {name: pair for name, pair in bounds.items() if pair[0] < pair[1]}
    if low:
        raise UsageError(
            where=command,
            found=", ".join(f"--{name.replace('_', '-')} {value:g}" for name, (value, _) in low.items()),
            expected=", ".join(f"--{name.replace('_', '-')} >= {bound:g}" for name, (_, bound) in low.items()),
            action="Correct these options.",
        )


def require_share(command: str, **shares: float) -> None:
    """Raises `UsageError` naming every option that is not above 0 and at most 1."""
    wrong = {name: share for name, share in shares.items() if not 0 < share <= 1}
    if wrong:
        raise UsageError(
            where=command,
            found=", ".join(f"--{name.replace('_', '-')} {share:g}" for name, share in wrong.items()),
            expected="a share above 0, at most 1, such as 0.95",
            action="Correct these options.",
        )


def require_optimizer_options(
    command: str, *, learning_rate: float, num_warmup_steps: int | None, dropout: float | None
) -> None:
    """Raises `UsageError` naming each of these that no training can be meant with."""
    checks = [
        (0 < learning_rate < math.inf, f"--learning-rate {learning_rate:g}", "--learning-rate > 0"),
        ((num_warmup_steps or 0) >= 0, f"--num-warmup-steps {num_warmup_steps}", "--num-warmup-steps >= 0"),
        (dropout is None or 0 <= dropout < 1, f"--dropout {dropout}", "0 <= --dropout < 1"),
    ]
    wrong = [(found, expected) for is_meant, found, expected in checks if not is_meant]
    if wrong:
        raise UsageError(
            where=command,
            found=", ".join(found for found, _ in wrong),
            expected=", ".join(expected for _, expected in wrong),
            action="Correct these options.",
        )
