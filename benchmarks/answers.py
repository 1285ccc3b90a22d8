"""What a process that `benchmarks.answering_process` starts does: answers lines of JSON. Imports no package."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ANSWER = "ANSWER "
"""Begins the lines that are answers; libraries print others."""


def answer_requests(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answers each line of standard input, a JSON object, until it ends."""
    for line in sys.stdin:
        say_answer(answer(json.loads(line)))


def say_answer(values: dict[str, Any]) -> None:
    """One answer."""
    print(ANSWER + json.dumps(values), flush=True)
