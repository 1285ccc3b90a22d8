"""The other side: transformers 4.40.2, the last release with REALM, in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from realm_core.errors import RealmError

ROOT = Path(__file__).resolve().parents[1]
ORACLE_VERSION = "4.40.2"
ENVIRONMENT_VARIABLE = "REALM_ORACLE_PYTHON"
_SHOW_VERSION = "from importlib.metadata import version; print(version('transformers'))"


def oracle_python() -> str:
    """The interpreter that has transformers 4.40.2; made with `make oracle` if it is not there.

    Raises:
        RealmError: it is not there and cannot be made, or has another release.
    """
    python = named_python()
    if not os.environ.get(ENVIRONMENT_VARIABLE) and transformers_version(python) != ORACLE_VERSION:
        print(
            f"no transformers {ORACLE_VERSION} yet: running `make oracle`, a few minutes", file=sys.stderr, flush=True
        )
        subprocess.run(["make", "oracle"], cwd=ROOT, stdout=sys.stderr, check=False)
    found = transformers_version(python)
    if found != ORACLE_VERSION:
        raise RealmError(
            where=str(python),
            found=f"transformers {found}" if found else "no interpreter with transformers",
            expected=f"transformers {ORACLE_VERSION}",
            action=f"Look at what `make oracle` says, or name another interpreter in {ENVIRONMENT_VARIABLE}.",
        )
    return str(python)


def named_python() -> Path:
    """Where that interpreter is, or would be."""
    return Path(os.environ.get(ENVIRONMENT_VARIABLE) or ROOT / ".venv-oracle" / "bin" / "python")


def transformers_version(python: Path) -> str | None:
    """The release that an interpreter has, without importing it."""
    if not python.exists():
        return None
    done = subprocess.run([str(python), "-c", _SHOW_VERSION], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
