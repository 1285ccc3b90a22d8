"""Files of this machine: written whole or not at all, and locked between processes."""

from __future__ import annotations

import fcntl
import os
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from realm_core.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TEMPORARY_MARK = ".tmp-"
"""In the names of files that are being written."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where files are written, as errors name it."""

    where: str
    """Such as `store /data/realm`."""
    setting: str
    """What a user changes to write elsewhere, such as `--store`."""

    def cannot_write(self, error: OSError) -> StoreError:
        """The error for a full disk, a missing permission and the like."""
        return StoreError(
            where=self.where,
            found=f"a write that failed ({error})",
            expected="a place that can be written, with room on it",
            action=f"Make room or correct {self.setting}, and run the command again; nothing was half-written.",
        )

    def make_folder(self, folder: Path) -> None:
        """Makes a folder and those above it. Raises `StoreError` when it cannot be made."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise StoreError(
                where=self.where,
                found=f"a file where a folder is needed ({error})",
                expected="a folder, or a path that is free",
                action=f"Choose another {self.setting}.",
            ) from error
        except OSError as error:
            raise self.cannot_write(error) from error


def write_atomically(target: Path, write: Callable[[Path], None], place: Place) -> None:
    """Lets `write(temporary path)` make the file, flushes it to the disk and renames it; an existing one is replaced.

    Raises:
        StoreError: it cannot be written; what was there before is still there, and nothing else.
    """
    place.make_folder(target.parent)
    temporary = target.parent / f"{target.name}{TEMPORARY_MARK}{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        write(temporary)
        _flush_to_disk(temporary)
        temporary.replace(target)
        _flush_to_disk(target.parent)
    except OSError as error:
        raise place.cannot_write(error) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(target: Path) -> None:
    """Removes what processes that died while writing the file left of it; call it where no other can be writing it."""
    if target.parent.is_dir():
        for leftover in target.parent.iterdir():
            if leftover.name.startswith(target.name + TEMPORARY_MARK):
                leftover.unlink(missing_ok=True)


@contextmanager
def exclusive(path: Path, place: Place) -> Iterator[None]:
    """Holds a lock file; others wait. The operating system frees it when its process ends, however it ends.

    Raises:
        StoreError: the lock file cannot be made.
    """
    place.make_folder(path.parent)
    try:
        file = path.open("a")
    except OSError as error:
        raise place.cannot_write(error) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
