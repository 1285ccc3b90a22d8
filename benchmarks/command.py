"""What the command lines of the benchmarks have in common."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from benchmarks.oracle import ROOT
from realm_core.errors import RealmError

if TYPE_CHECKING:
    from collections.abc import Callable

Value = TypeVar("Value")
DATA = ROOT.parent / "shared" / "data"


def benchmark_parser(module: str, description: str | None, *, needs_data: bool = True) -> argparse.ArgumentParser:
    """A parser for `python -m benchmarks.<module>`; with `--device` and `--data` where it embeds real text."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if needs_data:
        parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
        parser.add_argument("--data", type=Path, default=DATA, help="folder with squad/, or a JSON lines file")
    return parser


def require_positive(parser: argparse.ArgumentParser, options: argparse.Namespace, *names: str) -> None:
    """Ends with a usage error for a number below 1; one that was not given may be None."""
    for name in names:
        if (getattr(options, name) or 0) < 1 and getattr(options, name) is not None:
            parser.error(f"--{name.replace('_', '-')} must be 1 or more")


def print_last_line(run: Callable[[], dict[str, Any]]) -> None:
    """Prints what `run` returns as JSON."""
    print(json.dumps(or_exit(run)))


def or_exit(run: Callable[[], Value]) -> Value:
    """What `run` returns; an error of ours is a line on standard error, and the process's exit status."""
    try:
        return run()
    except RealmError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
