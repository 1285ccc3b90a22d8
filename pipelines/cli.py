"""The `realm` command: a table of sub-commands, exit codes, one-line errors."""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from realm_core.errors import RealmError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Command:
    """A sub-command: its modules are imported only when it runs; for its `--help`, only what says what it takes."""

    name: str
    summary: str

    def config_class(self) -> type[Any]:
        """What it takes, from a module that imports neither torch nor ray."""
        module = importlib.import_module(f"pipelines.configs.{self.name}")
        config_class: type[Any] = getattr(module, f"{self.name.capitalize()}Config")
        return config_class

    def function(self) -> Callable[[Any], Any]:
        """What it does."""
        function: Callable[[Any], Any] = getattr(importlib.import_module(f"pipelines.{self.name}"), f"run_{self.name}")
        return function


COMMANDS = {
    command.name: command
    for command in (
        Command("demo", "the whole loop on a real Wikipedia excerpt, in a few minutes"),
        Command("ingest", "a dump in, block records out"),
        Command("convert", "a published REALM model in: weights, block records, embeddings"),
        Command("warmup", "train the embedder on the inverse cloze task"),
        Command("embed", "embed all blocks with Ray actors"),
        Command("index", "build, check and publish a snapshot of index shards"),
        Command("snapshots", "list, verify, compare, publish, roll back, remove snapshots"),
        Command("serve", "serve the published snapshot from named actors"),
        Command("pretrain", "REALM pre-training over an index that refreshes itself"),
        Command("search", "find the blocks most relevant to a text"),
        Command("ask", "answer questions with the store's reader, and print the evidence"),
    )
}

EXIT_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Runs a sub-command and exits: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    is_debug = "--debug" in arguments or os.environ.get("REALM_DEBUG") == "1"
    arguments = [argument for argument in arguments if argument != "--debug"]
    _configure(is_debug)
    try:
        _run(arguments)
    except KeyboardInterrupt:
        _fail("interrupted; a rerun of the same command goes on", EXIT_INTERRUPTED)
    except RealmError as error:
        if is_debug:
            raise
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if is_debug:
            raise
        _fail(f"{type(error).__name__}: {' '.join(str(error).split())} (--debug shows where)", 1)


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage())
        sys.exit(0 if arguments else 2)
    command = _command(arguments[0])
    from pipelines.config import parse_config

    config = parse_config(command.config_class(), arguments[1:], program=f"realm {command.name}")
    from pipelines.results import show_result

    show_result(config, command.function()(config))


def _command(name: str) -> Command:
    if name in COMMANDS:
        return COMMANDS[name]
    nearest = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.0)[0]
    raise UsageError(
        where="realm",
        found=f"the command {name!r}",
        expected=f"one of {', '.join(COMMANDS)}",
        action=f"Did you mean `realm {nearest}`?",
    )


def usage() -> str:
    """What `realm --help` prints."""
    lines = [f"  {command.name:<10}{command.summary}" for command in COMMANDS.values()]
    return (
        "usage: realm COMMAND [OPTIONS]\n\n"
        "Retrieval-augmented pre-training whose index stays fresh while training runs.\n\n"
        "commands:\n" + "\n".join(lines) + "\n\n"
        "`realm COMMAND --help` lists a command's options; any of them can stand in a YAML file given with --config.\n"
        "--debug shows the traceback of an error. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.\n"
    )


def _configure(is_debug: bool) -> None:
    logging.basicConfig(
        level=logging.INFO if is_debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not is_debug:
        warnings.simplefilter("ignore")


def _fail(message: str, exit_code: int) -> None:
    sys.stderr.write(f"realm: {message}\n")
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
