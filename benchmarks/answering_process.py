"""Processes that answer JSON with JSON, a line each: so that the sides of a benchmark take turns within one run."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from typing import TYPE_CHECKING, Any

from benchmarks.answers import ANSWER
from benchmarks.oracle import ROOT
from benchmarks.side_by_side import environment
from realm_core.errors import RealmError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

STOP_SECONDS = 10


class AnsweringProcess:
    """Such a process under way; what it writes on standard error goes to a file."""

    def __init__(self, name: str, command: Sequence[str], log: Path, *, num_threads: int) -> None:
        """Starts it and waits for its first answer, `first`: that it is ready.

        Raises:
            RealmError: it died.
        """
        self._name, self._log = name, log
        with log.open("w") as file:
            self._process = subprocess.Popen(
                list(command),
                cwd=ROOT,
                env=environment(num_threads),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        try:
            self.first = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        """What it answers. Raises `RealmError` if it died."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            stdin.flush()
        except BrokenPipeError:
            raise self._dead() from None
        return self._answer()

    def close(self) -> None:
        """Ends it."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it may be dead
                self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                answer: dict[str, Any] = json.loads(line.removeprefix(ANSWER))
                return answer
        raise self._dead()

    def _dead(self) -> RealmError:
        code = self._process.wait()
        killed = f" ({signal.Signals(-code).name})" if code < 0 else ""
        last_words = "".join(self._log.read_text(errors="replace").strip().splitlines()[-1:]) or "no last words"
        memory = " It was killed, most likely for want of memory." if code == -signal.SIGKILL else ""
        return RealmError(
            where=f"the side {self._name}",
            found=f"a process that ended with exit code {code}{killed}: {last_words}",
            expected="an answer",
            action=f"Leave it out with `--sides`, or look at what it lacks.{memory}",
        )
