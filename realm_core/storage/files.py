"""Whole-file reads and atomic writes on any fsspec URL."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from realm_core.errors import ArtifactCorruptError, ArtifactMissingError, StoreError

CACHE_VARIABLE = "REALM_CACHE"
"""Environment variable naming the folder that keeps local copies of a remote store's immutable files."""


class Store:
    """A folder of immutable artifacts and a few small pointers, on a local disk or an object store.

    Paths are relative to the store's root, with forward slashes. A write is visible whole or not at all: on a local
    disk the bytes go to a temporary name, are flushed to the disk and renamed; on an object store they are one put.
    """

    def __init__(self, url: str) -> None:
        self.url = str(url).rstrip("/") or "/"
        try:
            self.fs, self.root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise StoreError(
                where=f"store {self.url}",
                found=str(error),
                expected="a local path or an fsspec URL whose protocol is installed",
                action="Check the URL, or install the package that the message names.",
            ) from error
        if self.is_local:
            self.url = self.root  # absolute: the processes of a cluster start in other folders

    @property
    def is_local(self) -> bool:
        """True where files can be memory-mapped and locked in place."""
        return isinstance(self.fs, LocalFileSystem)

    def full_path(self, path: str) -> str:
        """The path as the file system spells it."""
        return f"{self.root.rstrip('/')}/{path}"

    def exists(self, path: str) -> bool:
        """True when the file is there, whole."""
        return bool(self.fs.exists(self.full_path(path)))

    def require_initialized(self) -> None:
        """Raises `StoreError` when no corpus has ever been ingested here."""
        if not self.exists("corpora/CURRENT"):
            raise StoreError(
                where=f"store {self.url}",
                found="no corpus",
                expected="a store that `realm ingest` has filled",
                action="Check --store, or run `realm ingest --store … --source …` first.",
            )

    def list(self, folder: str) -> list[str]:
        """Names directly under a folder, sorted; empty when the folder is not there. Temporary names are left out."""
        try:
            entries = self.fs.ls(self.full_path(folder), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(name for name in (Path(e).name for e in entries) if ".tmp-" not in name)

    def read_bytes(self, path: str) -> bytes:
        """The whole file. Raises `ArtifactMissingError` when it is not there."""
        try:
            return bytes(self.fs.cat_file(self.full_path(path)))
        except FileNotFoundError as error:
            raise missing_file(self, path) from error

    def read_json(self, path: str, *, required: tuple[str, ...] = ()) -> Any:  # noqa: ANN401 - the caller knows
        """The file as JSON. Raises `ArtifactCorruptError` when it is not, or lacks a required key."""
        data = self.read_bytes(path)
        try:
            value = json.loads(data)
            if required and not (isinstance(value, dict) and set(required) <= value.keys()):
                raise ValueError(f"no mapping with {', '.join(required)}")
            return value
        except ValueError as error:
            raise ArtifactCorruptError(
                where=f"{self.url}/{path}",
                found=f"{len(data)} bytes that are no such JSON ({error})",
                expected="a manifest",
                action="Remove the file and run the command that wrote it again.",
            ) from error

    def write_bytes(self, path: str, data: bytes) -> None:
        """Writes the file, atomically; an existing one is replaced."""
        if not self.is_local:
            self.fs.pipe_file(self.full_path(path), data)
            return

        def write(temporary: Path) -> None:
            temporary.write_bytes(data)

        self._write_and_rename(Path(self.full_path(path)), write)

    def write_json(self, path: str, value: object) -> None:
        """Writes a manifest or pointer, atomically; readable by people, keys in the given order."""
        self.write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def write_file(self, path: str, write: Callable[[Path], None]) -> None:
        """Lets `write(local path)` make the file, then makes it visible atomically."""
        if self.is_local:
            self._write_and_rename(Path(self.full_path(path)), write)
            return
        with tempfile.TemporaryDirectory(prefix="realm-") as folder:
            local = Path(folder) / Path(path).name
            write(local)
            self.fs.put_file(str(local), self.full_path(path))

    def put_folder(self, folder: Path, path: str, *, last: str) -> None:
        """Copies a folder's files; the one named `last` (the manifest) goes last, so that its presence means all."""
        names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        for name in [n for n in names if n != last] + [last]:
            source = folder / name

            def copy(target: Path, source: Path = source) -> None:
                shutil.copyfile(source, target)

            self.write_file(f"{path}/{name}", copy)

    def local_file(self, path: str) -> Path:
        """A local path of an immutable file: the file itself, or a cached copy of a remote one."""
        if self.is_local:
            local = Path(self.full_path(path))
            if not local.exists():
                raise missing_file(self, path)
            return local
        cached = self._cache_folder() / path
        if not cached.exists():
            if not self.exists(path):
                raise missing_file(self, path)
            self._write_and_rename(cached, lambda temporary: self.fs.get_file(self.full_path(path), str(temporary)))
        return cached

    def local_folder(self, path: str) -> Path:
        """A local path of an immutable folder of files, see `local_file`."""
        names = self.list(path)
        if not names:
            raise missing_file(self, path)
        return [self.local_file(f"{path}/{name}").parent for name in names][-1]

    def remove(self, path: str) -> None:
        """Removes a file or folder; nothing happens when it is not there."""
        if self.exists(path):
            self.fs.rm(self.full_path(path), recursive=True)

    def _cache_folder(self) -> Path:
        base = os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "realm"
        return Path(base) / hashlib.sha256(self.url.encode()).hexdigest()[:16]

    def _write_and_rename(self, target: Path, write: Callable[[Path], None]) -> None:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise StoreError(
                where=f"store {self.url}",
                found=f"a file where a folder is needed ({error})",
                expected="a folder, or a path that is free",
                action="Choose another --store.",
            ) from error
        except OSError as error:
            raise self._cannot_write(error) from error
        temporary = target.parent / f"{target.name}.tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            write(temporary)
            _flush_to_disk(temporary)
            temporary.replace(target)
            _flush_to_disk(target.parent)
        except OSError as error:
            raise self._cannot_write(error) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _cannot_write(self, error: OSError) -> StoreError:
        return StoreError(
            where=f"store {self.url}",
            found=f"a write that failed ({error})",
            expected="a place that can be written, with room on it",
            action="Make room or correct --store, and run the command again; nothing was half-written.",
        )


def missing_file(store: Store, path: str) -> ArtifactMissingError:
    """The error for a file that a manifest names and the store lacks."""
    return ArtifactMissingError(
        where=f"store {store.url}",
        found=f"no {path}",
        expected="every file that a manifest names",
        action="Run the command that makes it again; it makes only what is missing.",
    )


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
