"""Checks that configurations share."""

from __future__ import annotations

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
